#include "sedpa/identify/head_scoring.h"

#include <algorithm>

#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"
#include "sedpa/identify/output_error.h"

namespace sedpa {
namespace {

// What is hidden must fit in, and a text hardly longer than the window loses next to nothing.
std::vector<std::int64_t> prompt_lengths(const Tokenizer& tokenizer,
                                         const HeadScoringOptions& options) {
  const std::int64_t window = std::int64_t{options.sink} + options.recent;
  const std::int64_t shortest = std::min(
      options.context,
      std::max({options.context / 4, 2 * window, least_prompt_tokens(tokenizer, options.hidden)}));
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < options.prompts; ++i) {
    lengths.push_back(options.prompts == 1
                          ? options.context
                          : shortest + (options.context - shortest) * i / (options.prompts - 1));
  }
  return lengths;
}

// Short prompts hold fewer keys, so that most of them is still text.
int keys_in(std::int64_t length, const HeadScoringOptions& options) {
  constexpr std::int64_t kTokensForAKey = 128;
  return static_cast<int>(
      std::clamp<std::int64_t>(length / kTokensForAKey, 1, std::max(options.keys, 1)));
}

AttentionReaderOptions reader_options(const HeadScoringOptions& options) {
  return {.context = options.context, .kv = options.kv, .chunk = options.chunk};
}

// All prompts first: a length that does not work is found before the work starts.
std::vector<PasskeyPrompt> make_prompts(const Engine& engine, const FillerText& filler,
                                        const HeadScoringOptions& options) {
  if (options.prompts < 1) fail("{} prompts, expected at least 1", options.prompts);
  Random random(options.seed);
  std::vector<PasskeyPrompt> prompts;
  for (const std::int64_t length : prompt_lengths(engine.tokenizer(), options)) {
    prompts.push_back(make_passkey_prompt(engine.tokenizer(), filler,
                                          {.tokens = length,
                                           .keys = keys_in(length, options),
                                           .words = options.words,
                                           .hidden = options.hidden},
                                          random));
  }
  return prompts;
}

// The rows whose next token is a key's, key after key.
std::vector<std::int64_t> answer_rows(const PasskeyPrompt& prompt) {
  std::vector<std::int64_t> rows;
  for (const HiddenKey& key : prompt.keys) {
    for (std::int64_t i = 0; i < key.count; ++i) rows.push_back(key.answer + i - 1);
  }
  return rows;
}

std::int32_t next_token(const PasskeyPrompt& prompt, std::int64_t row) {
  return prompt.tokens[static_cast<std::size_t>(row + 1)];
}

// Reads every prompt by `measure(prompt, rows, progress)`, which returns the likeliest next tokens
// of the rows after it has added its prompt's scores.
template <class Measure>
void read_prompts(const std::vector<PasskeyPrompt>& prompts, HeadScores& result,
                  const ScoringProgress& progress, Measure&& measure) {
  std::int64_t total = 0;
  for (const PasskeyPrompt& prompt : prompts) total += std::ssize(prompt.tokens);
  std::int64_t right = 0;
  for (const PasskeyPrompt& prompt : prompts) {
    const std::vector<std::int64_t> rows = answer_rows(prompt);
    const std::vector<std::int32_t> likely = measure(prompt, rows, [&](std::int64_t done) {
      if (progress) progress(result.tokens() + done, total);
    });
    for (std::size_t r = 0; r < rows.size(); ++r) {
      right += likely[r] == next_token(prompt, rows[r]) ? 1 : 0;
    }
    result.positions += std::ssize(rows);
    result.prompt_tokens.push_back(std::ssize(prompt.tokens));
    result.keys.push_back(std::ssize(prompt.keys));
  }
  result.answer_accuracy = static_cast<double>(right) / static_cast<double>(result.positions);
}

HeadScores empty_scores(const ModelConfig& config) {
  HeadScores scores{
      .layers = config.layers, .kv_heads = config.kv_heads, .query_heads = config.query_heads};
  scores.scores.resize(static_cast<std::size_t>(config.layers) *
                       static_cast<std::size_t>(config.kv_heads));
  return scores;
}

}  // namespace

void check_head_scoring(const Engine& engine, const FillerText& filler,
                        const HeadScoringOptions& options) {
  (void)scoring_session(engine, options);  // refuses models that cannot be scored
  (void)make_prompts(engine, filler, options);
}

SessionOptions scoring_session(const Engine& engine, const HeadScoringOptions& options) {
  return AttentionReader::session_options(reader_options(options), engine.config());
}

HeadScores score_by_output_error(Engine& engine, const FillerText& filler,
                                 const HeadScoringOptions& options,
                                 const ScoringProgress& progress) {
  const std::vector<PasskeyPrompt> prompts = make_prompts(engine, filler, options);
  OutputError measure(engine, {.context = options.context,
                               .sink = options.sink,
                               .recent = options.recent,
                               .kv = options.kv,
                               .chunk = options.chunk});
  HeadScores result = empty_scores(engine.config());
  const std::size_t heads = result.scores.size();
  read_prompts(
      prompts, result, progress,
      [&](const PasskeyPrompt& prompt, std::span<const std::int64_t> rows, const auto& on_tokens) {
        RowLosses losses = measure.measure(prompt.tokens, rows, on_tokens);
        const double share =
            1.0 / static_cast<double>(losses.rows) / static_cast<double>(prompts.size());
        for (std::size_t i = 0; i < losses.losses.size(); ++i) {
          result.scores[i % heads] += losses.losses[i] * share;
        }
        return std::move(losses.likely);
      });
  return result;
}

HeadScores score_by_copying(Engine& engine, const FillerText& filler,
                            const HeadScoringOptions& options, const ScoringProgress& progress) {
  const std::vector<PasskeyPrompt> prompts = make_prompts(engine, filler, options);
  StrongestAttention measure(engine, reader_options(options));
  HeadScores result = empty_scores(engine.config());
  result.query_scores.resize(static_cast<std::size_t>(result.layers) *
                             static_cast<std::size_t>(result.query_heads));
  const std::size_t heads = result.query_scores.size();
  read_prompts(
      prompts, result, progress,
      [&](const PasskeyPrompt& prompt, std::span<const std::int64_t> rows, const auto& on_tokens) {
        StrongestKeys strongest = measure.measure(prompt.tokens, rows, on_tokens);
        const std::vector<double> shares = copy_shares(prompt, strongest);
        for (std::size_t h = 0; h < heads; ++h) {
          result.query_scores[h] += shares[h] / static_cast<double>(prompts.size());
        }
        return std::move(strongest.likely);
      });
  const auto group = static_cast<std::size_t>(result.query_heads / result.kv_heads);
  for (std::size_t h = 0; h < heads; ++h) {
    result.query_scores[h] = std::min(result.query_scores[h], 1.0);  // a sum of rounded shares
    double& score = result.scores[h / group];
    score = std::max(score, result.query_scores[h]);
  }
  return result;
}

std::vector<double> copy_shares(const PasskeyPrompt& prompt, const StrongestKeys& strongest) {
  const auto heads =
      static_cast<std::size_t>(strongest.layers) * static_cast<std::size_t>(strongest.query_heads);
  std::vector<double> shares(heads);
  std::size_t row = 0;
  for (const HiddenKey& key : prompt.keys) {
    const double share =
        1.0 / static_cast<double>(key.count) / static_cast<double>(prompt.keys.size());
    for (std::int64_t i = 0; i < key.count; ++i, ++row) {
      const std::int32_t copied = prompt.tokens[static_cast<std::size_t>(key.answer + i)];
      if (strongest.likely[row] != copied) continue;
      for (std::size_t h = 0; h < heads; ++h) {
        const std::int32_t seen = strongest.positions[row * heads + h];
        const bool told = seen >= key.told && seen < key.told + key.count;
        if (told && prompt.tokens[static_cast<std::size_t>(seen)] == copied) shares[h] += share;
      }
    }
  }
  return shares;
}

std::vector<double> gates_from_scores(const std::vector<double>& scores) {
  if (scores.empty()) return {};
  std::vector<double> sorted = scores;
  const auto middle = sorted.begin() + std::ssize(sorted) / 2;
  std::nth_element(sorted.begin(), middle, sorted.end());
  // At least a little, so that heads above a median of zero are still told apart.
  const double scale = std::max(*middle, 1e-6);
  std::vector<double> gates;
  gates.reserve(scores.size());
  for (const double score : scores) gates.push_back(score / (score + scale));
  return gates;
}

AttentionPattern pattern_from_gates(const HeadScores& scores, std::vector<double> gates,
                                    const HeadScoringOptions& options) {
  return {.layers = scores.layers,
          .kv_heads = scores.kv_heads,
          .gates = std::move(gates),
          .sink_size = options.sink,
          .recent_size = options.recent,
          .config_json = {}};
}

std::string scoring_settings(const HeadScores& scores, const HeadScoringOptions& options,
                             const std::string& gate) {
  const nlohmann::ordered_json settings = {{"prompt_tokens", scores.prompt_tokens},
                                           {"keys", scores.keys},
                                           {"words", options.words},
                                           {"hidden", name(options.hidden)},
                                           {"kv_dtype", std::string(name(options.kv))},
                                           {"positions", scores.positions},
                                           {"answer_accuracy", scores.answer_accuracy},
                                           {"gate", gate}};
  return json_text(settings);
}

}  // namespace sedpa
