#pragma once
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/format/attention_pattern.h"
#include "sedpa/identify/filler_text.h"
#include "sedpa/identify/passkey_data.h"
#include "sedpa/identify/strongest_attention.h"

namespace sedpa {

/// How heads are scored without training: on prompts of several lengths with hidden keys, which the
/// model only reads, answers included.
struct HeadScoringOptions {
  std::int64_t context = 8192;  // tokens of the longest prompt
  int prompts = 4;  // lengths are spaced evenly from context / 4 to context, or from more where a
                    // quarter is less than two windows or too short to hide a key
  int keys = 10;    // in each prompt; those below 1280 tokens hold fewer
  int words = 16;   // in each key; very short prompts hold shorter ones
  HiddenKind hidden = HiddenKind::keys;
  std::uint64_t seed = 1;
  std::int32_t sink = 128;    // tokens of the window that a head is tried with, or would get
  std::int32_t recent = 256;  // the same
  std::int64_t chunk = 0;     // tokens of one prefill pass; 0: what suits the device
  KvDtype kv = KvDtype::f16;
};

struct HeadScores {
  std::int32_t layers = 0;
  std::int32_t kv_heads = 0;
  std::int32_t query_heads = 0;
  std::vector<double> scores = {};  // [layers, kv_heads], >= 0
  std::vector<double> query_scores =
      {};  // [layers, query_heads]; empty: the method has only KV heads
  std::vector<std::int64_t> prompt_tokens = {};  // of each prompt
  std::vector<std::int64_t> keys = {};           // in each prompt
  std::int64_t positions = 0;                    // that were measured
  /// Share of answer tokens that the model itself, with full attention, thinks most likely. When it
  /// is low the model does not find the keys, and its heads cannot be told apart by them.
  double answer_accuracy = 0;

  /// That were read.
  [[nodiscard]] std::int64_t tokens() const {
    return std::accumulate(prompt_tokens.begin(), prompt_tokens.end(), std::int64_t{0});
  }
};

/// `done` of `total` tokens have been read.
using ScoringProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Finds before the weights are loaded what would fail later: a model that cannot be scored,
/// prompts that cannot be made, a text that is too short for them. Throws Error.
void check_head_scoring(const Engine& engine, const FillerText& filler,
                        const HeadScoringOptions& options);

/// Scores every KV head by what the layer's output loses when the head sees only its window
/// (OutputError): the mean over the answer tokens of a prompt, then over the prompts.
/// Rows that predict an answer token count, the first of each key included. The same model, text
/// and options give the same scores. Throws Error.
[[nodiscard]] HeadScores score_by_output_error(Engine& engine, const FillerText& filler,
                                               const HeadScoringOptions& options,
                                               const ScoringProgress& progress = {});

/// Scores every query head by how often it copies (the retrieval score of Wu et al.,
/// arXiv 2404.15574, section 2): the share of a key's tokens at which the model's most likely next
/// token is the key's, and the head's strongest attention lies on that very token where the key is
/// told (or on an equal one within that key); the mean over the keys of a prompt, then over the
/// prompts. In [0, 1]. The model reads the true answer instead of writing its own, so that one slip
/// does not end a key. A KV head has the highest score of its query heads: it is needed when one of
/// them copies, however idle the others are. options.sink and recent change nothing.
[[nodiscard]] HeadScores score_by_copying(Engine& engine, const FillerText& filler,
                                          const HeadScoringOptions& options,
                                          const ScoringProgress& progress = {});

/// One prompt's part of score_by_copying: for each query head the mean over the keys of the share
/// that it copies. `strongest` are of the rows before the keys' tokens, key after key.
/// [layers, query_heads]
[[nodiscard]] std::vector<double> copy_shares(const PasskeyPrompt& prompt,
                                              const StrongestKeys& strongest);

/// The session that either of them makes, to plan memory by.
[[nodiscard]] SessionOptions scoring_session(const Engine& engine,
                                             const HeadScoringOptions& options);

/// Scores to gates in [0, 1]: score / (score + median score), so that the median head stands at
/// 0.5 and the order is kept. All zero when no head loses anything.
[[nodiscard]] std::vector<double> gates_from_scores(const std::vector<double>& scores);

/// The pattern with these gates and the options' window.
[[nodiscard]] AttentionPattern pattern_from_gates(const HeadScores& scores,
                                                  std::vector<double> gates,
                                                  const HeadScoringOptions& options);

/// The settings of either method and what was read, as a JSON object for pattern_origin. `gate`
/// says in words how gates come from scores.
[[nodiscard]] std::string scoring_settings(const HeadScores& scores,
                                           const HeadScoringOptions& options,
                                           const std::string& gate);

}  // namespace sedpa
