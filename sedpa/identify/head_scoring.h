#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/format/attention_pattern.h"
#include "sedpa/identify/output_error.h"
#include "sedpa/identify/passkey_data.h"

namespace sedpa {

/// How `identify --method output-error` works: on prompts of several lengths with hidden keys.
struct OutputErrorIdentifyOptions {
  std::int64_t context = 8192;  // tokens of the longest prompt; the shortest has a quarter
  int prompts = 4;              // lengths are spaced evenly from context / 4 to context
  int keys = 10;                // in each prompt; those below 1280 tokens hold fewer
  int words = 16;               // in each key
  std::uint64_t seed = 1;
  std::int32_t sink = 128;    // tokens of the window that a head is tried with
  std::int32_t recent = 256;  // the same
  std::int64_t chunk = 0;     // tokens of one prefill pass; 0: what suits the device
  KvDtype kv = KvDtype::f16;
};

struct HeadScores {
  std::int32_t layers = 0;
  std::int32_t kv_heads = 0;
  std::vector<double> scores;  // [layers, kv_heads], what a head's window costs; >= 0
  std::int64_t positions = 0;  // that were measured
  std::int64_t tokens = 0;     // that were read
  /// Share of answer tokens that the model itself, with full attention, thinks most likely. When it
  /// is low the model does not find the keys, and its heads cannot be told apart by them.
  double answer_accuracy = 0;
};

/// Scores every KV head: the mean, over the answer tokens of all prompts (each prompt counts the
/// same), of what the layer's output loses when the head sees only its window (OutputError).
/// Rows that predict an answer token count, the first of each key included. The same model, text
/// and options give the same scores. `progress(done, total)` tells tokens read. Throws Error.
[[nodiscard]] HeadScores score_by_output_error(
    Engine& engine, const FillerText& filler, const OutputErrorIdentifyOptions& options,
    const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

/// The session that score_by_output_error makes, to plan memory by.
[[nodiscard]] SessionOptions output_error_session(const Engine& engine,
                                                  const OutputErrorIdentifyOptions& options);

/// Scores to gates in [0, 1]: score / (score + median score), so that the median head stands at
/// 0.5 and the order is kept. All zero when no head loses anything.
[[nodiscard]] std::vector<double> gates_from_scores(const std::vector<double>& scores);

/// The pattern and, as a JSON object, how it was made.
[[nodiscard]] AttentionPattern pattern_from_scores(const HeadScores& scores,
                                                   const OutputErrorIdentifyOptions& options);
[[nodiscard]] std::string describe_output_error(const Engine& engine, const FillerText& filler,
                                                const HeadScores& scores,
                                                const OutputErrorIdentifyOptions& options);

}  // namespace sedpa
