#include "sedpa/engine/engine.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "sedpa/core/fail.h"
#include "sedpa/core/log.h"
#include "sedpa/core/thread_pool.h"
#ifdef SEDPA_HAVE_CUDA
#include "sedpa/backend/cuda/cuda_ops.h"
#endif

namespace sedpa {
namespace {

/// The N of "cuda:N"; 0 for "cuda".
int cuda_index(const std::string& device) {
  if (device == "cuda") return 0;
  const char* const end = device.data() + device.size();
  int index = -1;
  const auto [stop, error] =
      std::from_chars(device.data() + std::string_view("cuda:").size(), end, index);
  if (error != std::errc() || stop != end || index < 0) {
    fail("device is '{}', expected auto, cpu, cuda or cuda:N", device);
  }
  return index;
}

std::unique_ptr<Ops> make_ops(const EngineOptions& options) {
  const std::string& device = options.device;
  const bool wants_cuda = device == "cuda" || device.starts_with("cuda:");
  if (!wants_cuda && device != "auto" && device != "cpu") {
    fail("device is '{}', expected auto, cpu, cuda or cuda:N", device);
  }
#ifdef SEDPA_HAVE_CUDA
  if (wants_cuda && options.compute == Compute::f32) {
    fail(
        "compute is f32 and device is '{}', expected the device cpu: on a GPU products of many "
        "rows take 16-bit numbers",
        device);
  }
  if (wants_cuda) return make_cuda_ops({.device = cuda_index(device)});
  // What asks for f32 throughout asks for the CPU.
  if (device == "auto" && options.compute != Compute::f32 && !cuda_devices().empty()) {
    return make_cuda_ops({});
  }
#else
  if (wants_cuda) {
    (void)cuda_index(device);
    fail("device '{}' was asked for, but this build has no CUDA support, expected auto or cpu",
         device);
  }
#endif
  return make_cpu_ops({.threads = options.threads, .compute = options.compute});
}

}  // namespace

Engine::Engine(const EngineOptions& options) : Engine(options, make_ops(options)) {}

Engine::Engine(const EngineOptions& options, std::unique_ptr<Ops> ops)
    : options_(options),
      checkpoint_(Checkpoint::open(options.model)),
      device_(ops->traits().device),
      threads_(options.threads > 0 ? options.threads : usable_processors()),
      ops_(std::move(ops)) {
  apply_adapters();
  apply_rope_options();
  weights_ = checkpoint_weights(checkpoint_, adapters_);
  plan_weights();
}

Engine::Engine(const EngineOptions& options, ModelConfig config,
               std::unique_ptr<WeightSource> weights)
    : options_(options),
      checkpoint_(Checkpoint::without_files(std::move(config))),
      threads_(options.threads > 0 ? options.threads : usable_processors()),
      ops_(make_ops(options)),
      weights_(std::move(weights)) {
  device_ = ops_->traits().device;
  apply_rope_options();
  plan_weights();
}

void Engine::plan_weights() {
  weight_plan_ = sedpa::plan_weights(config(), *weights_, *ops_);
  checkpoint_.config().max_rank = weight_plan_.max_rank;
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

SessionOptions Engine::resolved(SessionOptions options) const {
  if (options.chunk == 0) options.chunk = ops_->traits().chunk_tokens;
  options.chunk = std::min(options.chunk, options.context);
  options.logit_rows = std::clamp<std::int64_t>(options.logit_rows, 1, options.chunk);
  return options;
}

MemoryPlan Engine::plan(const SessionOptions& asked) const {
  const SessionOptions options = resolved(asked);
  const auto logits = static_cast<std::size_t>(options.logit_rows) *
                      static_cast<std::size_t>(config().vocab_size) * sizeof(float);
  return {.weight_bytes = weight_plan_.weight_bytes,
          .kv_bytes = kv_geometry(config(), options).bytes(),
          .scratch_bytes = ops_->scratch_bytes(ops_plan(config(), options)) +
                           Activations::bytes(config(), options.chunk, options.logit_rows) +
                           logits};
}

std::int64_t Engine::largest_context(SessionOptions options, std::uint64_t bytes) const {
  const auto fits = [&](std::int64_t context) {
    options.context = context;
    return plan(options).total() <= bytes;
  };
  std::int64_t low = 0;  // fits, or nothing does
  std::int64_t high = options.context;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

std::uint64_t Engine::memory_limit() const {
  if (options_.memory_limit) return *options_.memory_limit;
  const std::uint64_t available = ops_->traits().available_bytes;
  // Weights that have been loaded are no longer among what is available, but count as allowed.
  return available > 0 ? available + (loaded() ? weight_plan_.weight_bytes : 0) : 0;
}

void Engine::check_memory(const MemoryPlan& planned, const std::string& advice) const {
  const std::uint64_t limit = memory_limit();
  if (limit == 0 || planned.total() <= limit) return;
  fail("{} bytes are needed (weights {}, KV cache {}, scratch {}), but {} are {}; {}",
       planned.total(), planned.weight_bytes, planned.kv_bytes, planned.scratch_bytes, limit,
       options_.memory_limit ? "allowed by --memory-limit" : fmt::format("available ({})", device_),
       advice);
}

void Engine::check_memory(const SessionOptions& options) const {
  const MemoryPlan planned = plan(options);
  const std::uint64_t limit = memory_limit();
  if (limit == 0 || planned.total() <= limit) return;
  const std::int64_t context = largest_context(options, limit);
  check_memory(planned,
               fmt::format("{}, --kv q8 or q4, or a higher --sparsity",
                           context > 0 ? fmt::format("use a --context of {} at most instead of {}",
                                                     context, options.context)
                                       : std::string("use a smaller model")));
}

Ceilings Engine::measure_ceilings() const {
#ifdef SEDPA_HAVE_CUDA
  if (device_.starts_with("cuda:")) {
    const CudaCeilings found = measure_cuda_ceilings(cuda_index(device_));
    return {.read_bytes_per_second = found.read_bytes_per_second,
            .copy_bytes_per_second = found.copy_bytes_per_second,
            .bf16_flops_per_second = found.bf16_flops_per_second};
  }
#endif
  const CpuCeilings found = measure_cpu_ceilings(threads_);
  return {.read_bytes_per_second = found.read_bytes_per_second,
          .int8_ops_per_second = found.int8_ops_per_second,
          .bf16_flops_per_second = found.bf16_flops_per_second,
          .f32_flops_per_second = found.f32_flops_per_second};
}

void Engine::load(const Progress& progress) {
  if (model_) return;
  model_ = load_model(config(), *weights_, *ops_, progress);
  // The merged weights are all that is needed now.
  weights_.reset();
  adapters_.clear();
}

const WeightSource& Engine::weights() const {
  if (!weights_) fail("{}: the weights have been loaded, and their source is gone", model_path());
  return *weights_;
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

HeadPlan Engine::full_plan() const {
  return HeadPlan::uniform(config().layers, config().kv_heads, config().native_class());
}

}  // namespace sedpa
