#include "sedpa/engine/engine.h"

#include <algorithm>
#include <thread>

#include "sedpa/core/fail.h"
#include "sedpa/core/log.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/thread_pool.h"

namespace sedpa {
namespace {

std::unique_ptr<Ops> make_ops(const EngineOptions& options) {
  const std::string& device = options.device;
  if (device == "auto" || device == "cpu") {
    return make_cpu_ops({.threads = options.threads, .compute = options.compute});
  }
  if (device == "cuda" || device.starts_with("cuda:")) {
    fail("device '{}' was asked for, but this build has no CUDA support, expected auto or cpu",
         device);
  }
  fail("device is '{}', expected auto, cpu, cuda or cuda:N", device);
}

}  // namespace

Engine::Engine(const EngineOptions& options) : Engine(options, make_ops(options)) {}

Engine::Engine(const EngineOptions& options, std::unique_ptr<Ops> ops)
    : options_(options),
      checkpoint_(Checkpoint::open(options.model)),
      device_("cpu"),
      threads_(options.threads > 0 ? options.threads : usable_processors()),
      ops_(std::move(ops)) {
  apply_adapters();
  apply_rope_options();
  weights_ = checkpoint_weights(checkpoint_, adapters_);
  weight_plan_ = plan_weights(config(), *weights_, *ops_);
}

Engine::Engine(const EngineOptions& options, ModelConfig config,
               std::unique_ptr<WeightSource> weights)
    : options_(options),
      checkpoint_(Checkpoint::without_files(std::move(config))),
      device_("cpu"),
      threads_(options.threads > 0 ? options.threads : usable_processors()),
      ops_(make_ops(options)),
      weights_(std::move(weights)) {
  apply_rope_options();
  weight_plan_ = plan_weights(this->config(), *weights_, *ops_);
}

void Engine::apply_adapters() {
  ModelConfig& config = checkpoint_.config();
  for (const LoraRequest& request : options_.adapters) {
    adapters_.push_back(LoraAdapter::open(request, checkpoint_));
    const LoraAdapter& adapter = adapters_.back();
    adapter_fingerprints_.append("+").append(adapter.fingerprint());
    if (const auto context = adapter.context_length();
        context && *context != config.trained_context) {
      log(fmt::format("{}: context length {} instead of {}", adapter.path(), *context,
                      config.trained_context));
      config.trained_context = *context;
    }
    if (const auto base = adapter.rope_base(); base && *base != config.rope_base) {
      log(fmt::format("{}: RoPE base {} instead of {}", adapter.path(), *base, config.rope_base));
      config.rope_base = *base;
    }
  }
}

void Engine::apply_rope_options() {
  ModelConfig& config = checkpoint_.config();
  if (options_.rope_base) {
    if (!(*options_.rope_base > 1)) {
      fail("RoPE base is {}, expected a number above 1", *options_.rope_base);
    }
    config.rope_base = *options_.rope_base;
  }
  if (options_.rope_scaling) {
    config.rope_scaling =
        parse_rope_scaling(*options_.rope_scaling, static_cast<double>(config.trained_context));
    config.trained_context = static_cast<std::int64_t>(static_cast<double>(config.trained_context) *
                                                       config.rope_scaling.factor);
  }
}

const Tokenizer& Engine::tokenizer() const {
  if (!tokenizer_) tokenizer_ = checkpoint_.tokenizer();
  return *tokenizer_;
}

std::string Engine::fingerprint() const {
  std::string all = checkpoint_.fingerprint();
  all += adapter_fingerprints_;
  const ModelConfig& c = config();
  all += fmt::format("@{}/{}x{}", c.rope_base, static_cast<int>(c.rope_scaling.method),
                     c.rope_scaling.factor);
  return all;
}

MemoryPlan Engine::plan(const SessionOptions& asked) const {
  SessionOptions options = asked;
  options.chunk = std::min(options.chunk, options.context);
  options.logit_rows = std::clamp<std::int64_t>(options.logit_rows, 1, options.chunk);
  const auto logits = static_cast<std::size_t>(options.logit_rows) *
                      static_cast<std::size_t>(config().vocab_size) * sizeof(float);
  return {.weight_bytes = weight_plan_.weight_bytes,
          .kv_bytes = kv_geometry(config(), options).bytes(),
          .scratch_bytes = ops_->scratch_bytes(ops_plan(config(), options)) +
                           Activations::bytes(config(), options.chunk, options.logit_rows) +
                           logits};
}

void Engine::check_memory(const SessionOptions& options) const {
  const MemoryPlan planned = plan(options);
  const std::size_t needed = planned.total() - (loaded() ? planned.weight_bytes : std::size_t{0});
  const std::uint64_t limit = options_.memory_limit.value_or(available_memory());
  if (limit == 0 || (options_.memory_limit ? planned.total() : needed) <= limit) return;
  fail(
      "{} bytes are needed (weights {}, KV cache {} for {} tokens, scratch {}), but {} are {}; use "
      "a smaller --context, --kv q8 or q4, or a higher --sparsity",
      planned.total(), planned.weight_bytes, planned.kv_bytes, options.context,
      planned.scratch_bytes, limit,
      options_.memory_limit ? "allowed by --memory-limit" : "available");
}

void Engine::load(const Progress& progress) {
  if (model_) return;
  model_ = load_model(config(), *weights_, *ops_, progress);
  // The merged weights are all that is needed now.
  weights_.reset();
  adapters_.clear();
}

const Model& Engine::model() const {
  if (!model_) fail("{}: the weights have not been loaded", model_path());
  return *model_;
}

void Engine::reserve_for(const Session& session) {
  if (reserved_for_ == session.id()) return;
  ops_->reserve(ops_plan(config(), session.options()));
  reserved_for_ = session.id();
}

HeadClass Engine::native_class() const {
  return config().sliding_window ? HeadClass::window(0, 0, *config().sliding_window) : HeadClass{};
}

HeadPlan Engine::full_plan() const {
  return HeadPlan::uniform(config().layers, config().kv_heads, native_class());
}

}  // namespace sedpa
