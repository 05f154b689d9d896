#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/dtype.h"
#include "sedpa/engine/session.h"
#include "sedpa/model/model.h"
#include "sedpa/ops/ops.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

struct EngineOptions {
  std::string model = {};                        // GGUF file or Hugging Face directory
  std::vector<LoraRequest> adapters = {};        // merged in this order
  std::optional<double> rope_base = {};          // instead of the file's and the adapters'
  std::optional<std::string> rope_scaling = {};  // none, linear:F, yarn:F, instead of the file's
  std::string device = "auto";                   // auto, cpu, cuda, cuda:N
  int threads = 0;                               // 0: one for each usable processor
  Compute compute = Compute::fast;
  std::optional<std::uint64_t> memory_limit = {};  // bytes; empty: what the machine has
};

/// Bytes by purpose; planned ones equal allocated ones.
struct MemoryPlan {
  std::size_t weight_bytes = 0;
  std::size_t kv_bytes = 0;
  std::size_t scratch_bytes = 0;  // activations, logits, step state, kernels' scratch

  [[nodiscard]] std::size_t total() const { return weight_bytes + kv_bytes + scratch_bytes; }
};

/// What the device reaches, measured now: the ceilings that figures are divided by. 0: not
/// measured.
struct Ceilings {
  double read_bytes_per_second = 0;
  double copy_bytes_per_second = 0;  // read and written
  double int8_ops_per_second = 0;    // multiply and add count as two
  double bf16_flops_per_second = 0;
  double f32_flops_per_second = 0;
};

/// A model on a device: files, tokenizer, weights, and the operations that run it. Sessions hold a
/// reference to it, so it must not move while one lives.
class Engine {
 public:
  /// Opens and checks the files; loads no weights. Throws Error.
  explicit Engine(const EngineOptions& options);
  /// The same for a backend made elsewhere.
  Engine(const EngineOptions& options, std::unique_ptr<Ops> ops);
  /// A model of this configuration whose numbers come from elsewhere, without files; options.model
  /// and adapters are not looked at.
  Engine(const EngineOptions& options, ModelConfig config, std::unique_ptr<WeightSource> weights);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  /// With adapters and options applied.
  [[nodiscard]] const ModelConfig& config() const { return checkpoint_.config(); }
  /// Read from the files on first use.
  [[nodiscard]] const Tokenizer& tokenizer() const;
  [[nodiscard]] Ops& ops() const { return *ops_; }
  [[nodiscard]] const std::string& device() const { return device_; }
  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] Ceilings measure_ceilings() const;
  [[nodiscard]] const std::string& model_path() const { return checkpoint_.path(); }
  [[nodiscard]] bool has_adapters() const { return !adapter_fingerprints_.empty(); }
  /// Tells this model with its adapters and position settings from any other.
  [[nodiscard]] std::string fingerprint() const;
  /// Where load() reads from, adapters merged; until then.
  [[nodiscard]] const WeightSource& weights() const;
  /// Numbers that loading stores.
  [[nodiscard]] const WeightPlan& weight_plan() const { return weight_plan_; }

  /// What loading and one session would allocate.
  [[nodiscard]] MemoryPlan plan(const SessionOptions& options) const;
  /// With what was left open filled in: the chunk that suits the device, no more than the context.
  [[nodiscard]] SessionOptions resolved(SessionOptions options) const;
  /// Throws Error, naming both numbers and the largest context that fits, when the plan is beyond
  /// the limit or what the device has.
  void check_memory(const SessionOptions& options) const;
  /// The same for a plan of other work; `advice` says what would make it smaller.
  void check_memory(const MemoryPlan& planned, const std::string& advice) const;
  /// Loads the weights; the second call does nothing.
  void load(const Progress& progress = {});
  [[nodiscard]] const Model& model() const;
  /// Makes room in the backend for a session's passes, unless it had the last one.
  void reserve_for(const Session& session);
  [[nodiscard]] bool loaded() const { return model_.has_value(); }

  /// All KV heads full, or windows where the model itself has a sliding window.
  [[nodiscard]] HeadPlan full_plan() const;

 private:
  void plan_weights();
  void apply_adapters();
  /// Bytes that a plan may have; 0 when there is no telling.
  [[nodiscard]] std::uint64_t memory_limit() const;
  /// The most tokens that a plan within `bytes` has room for; 0 when not even one.
  [[nodiscard]] std::int64_t largest_context(SessionOptions options, std::uint64_t bytes) const;
  void apply_rope_options();

  EngineOptions options_;
  Checkpoint checkpoint_;
  std::vector<LoraAdapter> adapters_;  // until the weights are loaded
  std::string adapter_fingerprints_;   // "+0123456789abcdef" each
  std::string device_;
  int threads_ = 1;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<WeightSource> weights_;  // refers to checkpoint_ and adapters_; until loaded
  WeightPlan weight_plan_;
  mutable std::optional<Tokenizer> tokenizer_;
  std::optional<Model> model_;
  std::uint64_t reserved_for_ = 0;  // Session::id of the session that the backend has room for
};

}  // namespace sedpa
