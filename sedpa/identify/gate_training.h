#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/engine/engine.h"
#include "sedpa/format/attention_pattern.h"
#include "sedpa/identify/gate_learner.h"
#include "sedpa/identify/passkey_data.h"
#include "sedpa/model/backward.h"

namespace sedpa {

/// How `identify --method gates` works (DuoAttention, arXiv 2410.10819, section 2.2): a document of
/// hidden keys a step, of a length drawn from `intervals` lengths spaced evenly.
struct GateTrainingOptions {
  GateLearning learning;
  std::int64_t shortest = 1000;  // tokens of a document; no more than `context`
  std::int64_t context = 8192;   // tokens of the longest
  int intervals = 50;            // lengths that there are
  int keys = 10;                 // in each document; short ones hold fewer
  int words = 32;                // in each key
  HiddenKind hidden = HiddenKind::keys;
  std::uint64_t seed = 1;
  std::int32_t sink = 128;
  std::int32_t recent = 256;
  std::int64_t chunk = 0;  // rows of one pass; 0: what suits the device
  KvDtype kv = KvDtype::f16;
};

/// What one step reads: counted are the rows that predict a token of an answer.
struct GateDocument {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> rows;
};
/// Makes them. Both arguments must outlive it.
class GateDocuments {
 public:
  GateDocuments(const Tokenizer& tokenizer, const FillerText& filler,
                const GateTrainingOptions& options);

  /// The document of a step, from 0. It depends on nothing else, so that training can go on from
  /// anywhere. Throws Error when the text or the document is too short.
  [[nodiscard]] GateDocument of_step(std::int64_t step) const;
  /// Keys of a document of so many tokens, half of which belong to keys at most.
  [[nodiscard]] int keys_in(std::int64_t tokens) const;
  /// A document of so many tokens.
  [[nodiscard]] GateDocument of_length(std::int64_t tokens, Random& random) const;
  /// The most tokens from a document's first counted row to its last.
  [[nodiscard]] std::int64_t span() const;

 private:
  const Tokenizer& tokenizer_;
  const FillerText& filler_;
  GateTrainingOptions options_;
  std::int64_t answer_tokens_;  // of one key, at most
};

/// Finds before the weights are loaded what would fail later. Throws Error when a size is out of
/// range, the context lies within the window or beyond the model's own, or the text is too short.
void check_gate_training(const Engine& engine, const FillerText& filler,
                         const GateTrainingOptions& options);

class GateTrainer {
 public:
  struct Step {
    std::int64_t tokens = 0;
    double loss = 0;  // the mean squared error, without the regularisation
  };

  /// Allocates everything. The engine must be loaded; its sessions of before must not be used
  /// after. `filler` must outlive it.
  GateTrainer(Engine& engine, const FillerText& filler, const GateTrainingOptions& options);
  /// What loading and training would allocate.
  [[nodiscard]] static MemoryPlan plan(const Engine& engine, const FillerText& filler,
                                       const GateTrainingOptions& options);

  [[nodiscard]] const GateLearner& learner() const { return learner_; }
  [[nodiscard]] bool done() const { return learner_.state().step >= options_.learning.steps; }
  /// One document and one step. Empty, and nothing has changed, when `go_on` said no. Throws Error
  /// naming the step when the loss or a gradient is not a number; the gates are then the last good
  /// ones.
  std::optional<Step> step(const std::function<bool()>& go_on = {});

  /// The pattern of the gates as they stand.
  [[nodiscard]] AttentionPattern pattern() const;
  /// What config.json says of how the gates were made, for pattern_origin.
  [[nodiscard]] std::string settings_json() const;

  /// Writes what training needs to go on bit for bit (docs/formats.md). Throws Error.
  void save(const std::string& path) const;
  /// Takes it up. Throws Error naming what differs when it is of another model, text or setting.
  void resume(const std::string& path);

 private:
  Engine& engine_;
  const FillerText& filler_;
  GateTrainingOptions options_;
  GateDocuments documents_;
  TrainingPass pass_;
  GateLearner learner_;
};

/// Gates above kSaturatedGate in the order of `scores` (what a head costs, by another measure),
/// spread evenly over what lies above it; the others as they are. Both [heads].
[[nodiscard]] std::vector<double> rank_saturated(const std::vector<double>& gates,
                                                 const std::vector<double>& scores);

}  // namespace sedpa
