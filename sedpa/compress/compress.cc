#include "sedpa/compress/compress.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "sedpa/compress/checkpoint_writer.h"
#include "sedpa/compress/covariance.h"
#include "sedpa/compress/factored_weights.h"
#include "sedpa/compress/low_rank.h"
#include "sedpa/compress/parts.h"
#include "sedpa/compress/published.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/core/log.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/json.h"

namespace sedpa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Kernels read rows in pieces of so many numbers.
constexpr std::int64_t kRankStep = 16;
/// Attempts to meet a divergence, each with a smaller sum of single ones.
constexpr int kAttempts = 4;

void refuse_compressed(const Engine& engine) {
  const std::int64_t factored = engine.weight_plan().low_rank_matrices;
  if (factored == 0) return;
  fail("{}: is compressed already ({} matrices are low-rank factors), expected a model that is not",
       engine.model_path(), factored);
}

Dtype factor_type(const Engine& engine, const CompressOptions& options) {
  if (options.type) return *options.type;
  const Dtype own = engine.weights().dtype(attention_places(engine.config(), 0).front());
  return block_size(own) > 1 ? Dtype::q8_0 : own;
}

/// A directory's name may end with a slash; names beside it do not begin there.
std::string without_slash(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

class Compression {
 public:
  Compression(const Engine& engine, const CalibrationText& text, const CompressOptions& options,
              const std::string& output, const CompressProgress& progress)
      : engine_(engine),
        ops_(engine.ops()),
        algebra_(ops_),
        config_(with_useful_ranks(engine.config())),
        heads_(options.thin ? options.thin->heads : engine.full_plan()),
        text_(text),
        options_(options),
        output_(writes_directory() ? without_slash(output) : output),
        progress_(progress),
        type_(factor_type(engine, options)),
        places_(all_attention_places(config_)),
        step_(std::max<std::int64_t>(kRankStep, block_size(type_))),
        pool_(engine.threads()) {
    result_.attention_before = numbers();
    result_.parameters_before = engine.weight_plan().parameters;
    check();
    if (options.thin) {
      thinning_.emplace(engine, config_, text, *options.thin, options.type, progress);
    }
  }

  CompressResult run() {
    parts_.emplace(output_ + ".parts", settings());
    result_.resumed = parts_->resumed();
    if (thinning_) make_thin();
    if (options_.makes_factors()) make_factors();
    const WeightSource* const last = weights_ ? weights_.get() : &model().weights;
    const WeightPlan plan = plan_weights(model().config, *last, ops_);
    result_.parameters_after = plan.parameters;
    result_.attention_after = plan.attention_parameters;
    write_checkpoint(engine_, model().config, *last, json_text(origin()), output_);
    weights_.reset();
    parts_->remove();
    return result_;
  }

 private:
  [[nodiscard]] bool writes_directory() const { return engine_.checkpoint().gguf() == nullptr; }
  /// What is written is a file, or a directory, as the model is.
  void check_name() const {
    if (!writes_directory()) {
      const AtomicFile refuses_what_no_file_can_be(output_);  // not committed
      return;
    }
    if (output_.ends_with(".gguf")) {
      fail("{}: {} is a directory, and so is what is written: expected a name without .gguf",
           output_, engine_.model_path());
    }
    if (fs::exists(output_)) {
      fail("{}: is there already, expected a new name for the directory", output_);
    }
  }

  void check() const {
    const std::string& path = engine_.model_path();
    refuse_compressed(engine_);
    std::error_code ignored;
    if (fs::equivalent(path, output_, ignored)) {
      fail("{}: is the model itself; write the compressed one to another name", output_);
    }
    const fs::path folder = fs::path(output_).parent_path();
    if (!folder.empty() && !fs::is_directory(folder)) {
      fail("{}: cannot be written: there is no directory {}", output_, folder.string());
    }
    check_name();
    for (const Place& place : places_) {
      if (place.cols % block_size(type_) == 0) continue;
      fail("{}: {} has rows of {} numbers, which {} cannot store; use --type f16", path,
           engine_.checkpoint().tensor_name(place.role, place.layer), place.cols, name(type_));
    }
    if (writes_directory() && block_size(type_) > 1) {
      fail("--type is {}, expected f32, f16 or bf16: safetensors files have no other", name(type_));
    }
    if (options_.cut && !options_.thin) check_budget();
    if (options_.published) return;
    const std::int64_t rank = std::max<std::int64_t>(config_.width, config_.attention().out_cols());
    if (text_.tokens() < rank) {
      log(
          fmt::format("{} tokens of calibration text are fewer than the {} inputs of a projection: "
                      "what they do not show stays near the original",
                      text_.tokens(), rank));
    }
  }

  // --- What is kept between runs ----------------------------------------------------------------

  [[nodiscard]] json settings() const {
    json all = {{"recipe", recipe()},
                {"model_fingerprint", engine_.fingerprint()},
                {"text_fingerprint", text_.fingerprint},
                {"heads", nullptr},
                {"cut", nullptr},
                {"max_kl", nullptr},
                {"type", name(type_)}};
    if (options_.published) all["heads"] = options_.published->fingerprint();
    if (options_.cut) all["cut"] = *options_.cut;
    if (options_.max_kl) all["max_kl"] = *options_.max_kl;
    if (options_.thin) {
      all["thin_heads"] = options_.thin->cut;
      all["heads"] = options_.thin->heads.fingerprint();
    }
    return all;
  }

  [[nodiscard]] std::string recipe() const {
    if (!options_.makes_factors()) return "thin-heads";
    return options_.published ? "paper" : "calibrated";
  }

  // --- Thin heads -------------------------------------------------------------------------------

  /// The model that factors are made of.
  [[nodiscard]] ModelView model() const {
    if (thinning_) return {thinning_->config(), thinning_->weights(), heads_};
    return {config_, engine_.weights(), heads_};
  }
  /// Of all attention projections.
  [[nodiscard]] std::int64_t numbers() const {
    std::int64_t sum = 0;
    for (const Place& place : places_) sum += place.rows * place.cols;
    return sum;
  }

  void make_thin() {
    thinning_->run(*parts_);
    places_ = all_attention_places(thinning_->config());
    result_.widths = thinning_->config().thin.widths;
    result_.kv_bytes_before = thinning_->kv_bytes_before();
    result_.kv_bytes_after = thinning_->kv_bytes();
    result_.kl_running = thinning_->divergence().running;
    result_.kl_retrieving = thinning_->divergence().retrieving;
  }

  // --- Ranks ------------------------------------------------------------------------------------

  std::vector<RankChoices> losses() {
    constexpr const char* kName = "losses.json";
    std::vector<RankChoices> choices;
    if (const json lists = parts_->read(kName); !lists.is_null()) {
      if (!lists.is_array() || lists.size() != places_.size()) parts_->fail_damaged(kName);
      for (std::size_t i = 0; i < places_.size(); ++i) {
        choices.push_back({.rows = places_[i].rows,
                           .cols = places_[i].cols,
                           .ranks = useful_ranks(places_[i], step_),
                           .losses = lists[i].get<std::vector<double>>()});
        if (choices.back().losses.size() != choices.back().ranks.size()) {
          parts_->fail_damaged(kName);
        }
      }
      return choices;
    }
    choices = options_.published
                  ? singular_value_losses(algebra_, engine_.weights(), config_, step_, progress_)
                  : measured_losses(engine_, model(), text_, step_, progress_);
    json lists = json::array();
    for (const RankChoices& matrix : choices) lists.push_back(matrix.losses);
    parts_->write(kName, lists);
    return choices;
  }

  [[nodiscard]] Allocation allocate(double max_kl) const {
    if (options_.max_kl) return allocate_within_loss(choices_, max_kl);
    if (!options_.cut) return published_ranks(choices_, *options_.published, config_.width);
    return options_.published ? published_ranks_within(choices_, *options_.published, budget())
                              : allocate_ranks(choices_, budget());
  }

  /// Numbers that options_.cut leaves.
  [[nodiscard]] std::int64_t budget() const {
    return static_cast<std::int64_t>(static_cast<double>(numbers()) * (1 - *options_.cut));
  }

  void check_budget() const {
    std::int64_t least = 0;
    for (const Place& place : places_) {
      const bool useful = step_ <= most_useful_rank(place.rows, place.cols);
      least += useful ? step_ * (place.rows + place.cols) : place.rows * place.cols;
    }
    if (budget() >= least) return;
    fail(
        "--attention-parameters -{:.4g}% leaves {} numbers, but ranks are multiples of {} and the "
        "least take {}: {:.4g}% can go at most",
        100 * *options_.cut, budget(), step_, least,
        100 * (1 - static_cast<double>(least) / static_cast<double>(numbers())));
  }

  void make_factors() {
    if (options_.cut) check_budget();
    choices_ = losses();
    double allowed = options_.max_kl.value_or(0);
    for (int attempt = 1;; ++attempt) {
      const Allocation allocation = allocate(allowed);
      result_.ranks = allocation.ranks;
      if (!options_.published) result_.expected_kl = allocation.loss;
      factorize();
      const double kl = (result_.kl_running + result_.kl_retrieving) / 2;
      if (!options_.max_kl || kl <= *options_.max_kl) break;
      if (attempt == kAttempts) {
        fail("a divergence of {} was reached, but {} is allowed; use a larger --max-kl", kl,
             *options_.max_kl);
      }
      // Single cuts add up to less than what they do together.
      allowed *= 0.9 * *options_.max_kl / kl;
    }
  }

  // --- Factors ----------------------------------------------------------------------------------

  [[nodiscard]] std::int64_t rank_of(const Place& place, std::size_t projection) const {
    return result_
        .ranks[static_cast<std::size_t>(place.layer) * kAttentionProjections + projection];
  }

  /// Replaces one projection; `inputs` null: by its singular values.
  void replace(const Place& place, std::size_t projection, const DenseMatrix* inputs) {
    const std::int64_t rank = rank_of(place, projection);
    if (rank == 0) return;
    DenseMatrix w = algebra_.load(model().weights.matrix(place));
    const Decomposition decomposition =
        inputs != nullptr ? Decomposition::of_outputs(algebra_, std::move(w), *inputs)
                          : Decomposition::of_matrix(algebra_, std::move(w));
    // Heads that became thin may leave the output projection rows that no block divides.
    const bool fits = place.cols % block_size(type_) == 0;
    weights_->set(place, decomposition.cut(rank), fits ? type_ : Dtype::f16);
  }

  /// A layer's file tells for which ranks of all layers it was made.
  [[nodiscard]] std::string label() const {
    Hash hash;
    for (const std::int64_t rank : result_.ranks) hash.add(fmt::format("{} ", rank));
    return hash.digits();
  }

  /// All layers, one after the other: the text through the compressed model, the probes through
  /// both.
  void factorize() {
    const ModelView base = model();
    const ModelView original{config_, engine_.weights(), heads_};
    weights_ = std::make_unique<FactoredWeights>(base.weights);
    LayerRunner runner(ops_, config_, heads_, std::max<std::int64_t>(text_.longest(), 1));
    const auto all = options_.published ? std::vector<std::span<const std::int32_t>>{}
                                        : sequence_tokens(text_);  // by matrices alone
    Stream text(ops_, original, runner, all);
    Stream original_probes(ops_, original, runner, probe_tokens(text_));
    Stream probes(ops_, original, runner, probe_tokens(text_));
    for (std::int32_t i = 0; i < config_.layers; ++i) {
      const auto step = [&] { show(i); };
      const Layer whole = load_layer(base.config, i, base.weights, ops_);
      const std::string path = parts_->layer_path("layer", i);
      const bool done = weights_->load_layer(i, path, label());
      if (!done) {
        factorize_layer(whole, i, text);
        weights_->save_layer(i, path, label());
      }
      const Layer compressed = with_attention(whole, base.config, i, *weights_, ops_);
      if (done) text.pass(compressed, i, step);
      original_probes.pass(thinning_ ? load_layer(config_, i, original.weights, ops_) : whole, i,
                           step);
      probes.pass(compressed, i, step);
    }
    const Divergence found =
        ProbeComparison(ops_, original, text_, original_probes.rows(), pool_).of(probes.rows());
    result_.kl_running = found.running;
    result_.kl_retrieving = found.retrieving;
  }

  /// Query, key and value first, of what arrives at the layer; then the output projection, of the
  /// heads that those give. The text goes through the layer on the way.
  void factorize_layer(const Layer& whole, std::int32_t index, Stream& text) {
    const ModelConfig& config = model().config;
    const auto places = attention_places(config, index);
    if (options_.published) {
      show(index);
      for (std::size_t i = 0; i < kAttentionProjections; ++i) replace(places[i], i, nullptr);
      return;
    }
    LayerRunner& runner = text.runner();
    DenseOps& dense = algebra_.dense();
    {
      const DenseMatrix inputs = dense.make(config_.width, config_.width);
      for (std::size_t i = 0; i < text.size(); ++i) {
        const Rows h = runner.normed(whole, text.of(i));
        dense.add_products(h, h, inputs);
      }
      regularize(dense, inputs);
      for (std::size_t i = 0; i + 1 < kAttentionProjections; ++i) replace(places[i], i, &inputs);
    }
    const RowStore heads(ops_, text.lengths(), whole.shape.out_cols);
    {
      const Layer heads_cut = with_attention(whole, config, index, *weights_, ops_);
      const DenseMatrix inputs = dense.make(whole.shape.out_cols, whole.shape.out_cols);
      std::vector<float> numbers;
      for (std::size_t i = 0; i < text.size(); ++i) {
        show(index);
        const Rows o = text.attend(heads_cut, index, i);
        dense.add_products(o, o, inputs);
        numbers.resize(static_cast<std::size_t>(o.rows * o.cols));
        ops_.read(o, numbers.data());
        const auto bytes = std::as_bytes(std::span(numbers));
        ops_.copy_from_host(bytes.data(), reinterpret_cast<std::byte*>(heads.of(i).data),
                            bytes.size());
      }
      regularize(dense, inputs);
      replace(places.back(), kAttentionProjections - 1, &inputs);
    }
    const Layer compressed = with_attention(whole, config, index, *weights_, ops_);
    for (std::size_t i = 0; i < text.size(); ++i) {
      show(index);
      runner.finish(compressed, text.of(i), heads.of(i), text.of(i));
    }
  }

  void show(std::int32_t layer) const { progress_("compressing", layer, config_.layers); }

  /// How the file was made, for its metadata.
  [[nodiscard]] json origin() const {
    json all = settings();
    all["seed"] = options_.seed;
    all["text"] = text_.name;
    all["text_tokens"] = text_.tokens();
    if (options_.makes_factors()) all["ranks"] = result_.ranks;
    if (options_.thin) {
      all["kv_bytes_before"] = result_.kv_bytes_before;
      all["kv_bytes"] = result_.kv_bytes_after;
    }
    all["attention_parameters_before"] = result_.attention_before;
    all["attention_parameters"] = result_.attention_after;
    all["parameters_before"] = result_.parameters_before;
    all["parameters"] = result_.parameters_after;
    all["kl_running"] = result_.kl_running;
    all["kl_retrieving"] = result_.kl_retrieving;
    return all;
  }

  const Engine& engine_;
  Ops& ops_;
  Algebra algebra_;
  ModelConfig config_;
  HeadPlan heads_;  // which stream while the model is looked at
  const CalibrationText& text_;
  const CompressOptions& options_;
  std::string output_;
  std::optional<Parts> parts_;
  const CompressProgress& progress_;
  Dtype type_;
  std::vector<Place> places_;
  std::int64_t step_;
  ThreadPool pool_;
  std::optional<HeadThinning> thinning_;
  std::vector<RankChoices> choices_;
  std::unique_ptr<FactoredWeights> weights_;
  CompressResult result_;
};

}  // namespace

MemoryPlan plan_compression(const Engine& engine, const CalibrationText& text,
                            const CompressOptions& options) {
  refuse_compressed(engine);
  const ModelConfig config = with_useful_ranks(engine.config());
  const std::int64_t heads = config.attention().out_cols();
  std::size_t layer = 0;
  const auto add = [&](const Place& place) {
    layer += engine.ops().weight_bytes(engine.weights().dtype(place), place.rows, place.cols);
  };
  for (const Place& place : attention_places(config, 0)) add(place);
  add({Role::gate, 0, config.mlp_width, config.width});
  add({Role::up, 0, config.mlp_width, config.width});
  add({Role::down, 0, config.width, config.mlp_width});

  std::int64_t probes = 0;
  for (const auto& tokens : probe_tokens(text)) probes += std::ssize(tokens);
  const std::int64_t tokens = options.published ? 0 : text.tokens();
  // Numbers of rows: while projections are cut one by one, and while all of them are.
  const std::int64_t measuring =
      options.published ? 0
                        : config.width * (tokens + probes * (1 + 4 * std::int64_t{config.layers}));
  const std::int64_t cutting = (config.width + heads) * tokens + 2 * config.width * probes;
  const std::int64_t widest = std::max<std::int64_t>(config.width, heads);
  // In f64 at once: two covariances, a matrix, and what a product or the eigenvectors make of them.
  constexpr std::int64_t kMatrices = 5;
  std::size_t factors = 0;
  if (options.makes_factors()) {
    factors = static_cast<std::size_t>(std::max(measuring, cutting)) * sizeof(float) +
              static_cast<std::size_t>(kMatrices * widest * widest) * sizeof(double) +
              Algebra(engine.ops()).dense().eigen_bytes(widest);
  }
  const std::size_t thin = options.thin ? thinning_bytes(config, text) : 0;
  const HeadPlan plan = options.thin ? options.thin->heads : engine.full_plan();
  return {.weight_bytes = 2 * layer,
          .kv_bytes = 0,
          .scratch_bytes = LayerRunner::bytes(engine.ops(), config, plan,
                                              std::max<std::int64_t>(text.longest(), 1)) +
                           std::max(factors, thin) + ProbeComparison::bytes(config, text)};
}

CompressResult compress(const Engine& engine, const CalibrationText& text,
                        const CompressOptions& options, const std::string& output,
                        const CompressProgress& progress) {
  const BlasThreads threads(engine.threads());
  return Compression(engine, text, options, output, progress).run();
}

}  // namespace sedpa
