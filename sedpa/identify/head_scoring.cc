#include "sedpa/identify/head_scoring.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

std::vector<std::int64_t> prompt_lengths(const OutputErrorIdentifyOptions& options) {
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < options.prompts; ++i) {
    const std::int64_t shortest = options.context / 4;
    lengths.push_back(options.prompts == 1
                          ? options.context
                          : shortest + (options.context - shortest) * i / (options.prompts - 1));
  }
  return lengths;
}

// Short prompts hold fewer keys, so that most of them is still text.
int keys_in(std::int64_t length, const OutputErrorIdentifyOptions& options) {
  constexpr std::int64_t kTokensForAKey = 128;
  return static_cast<int>(
      std::clamp<std::int64_t>(length / kTokensForAKey, 1, std::max(options.keys, 1)));
}

OutputErrorOptions measure_options(const OutputErrorIdentifyOptions& options) {
  return {.context = options.context,
          .sink = options.sink,
          .recent = options.recent,
          .kv = options.kv,
          .chunk = options.chunk};
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[16];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%d", &utc)};
}

}  // namespace

SessionOptions output_error_session(const Engine& engine,
                                    const OutputErrorIdentifyOptions& options) {
  return OutputError::session_options(measure_options(options), engine.config());
}

HeadScores score_by_output_error(Engine& engine, const FillerText& filler,
                                 const OutputErrorIdentifyOptions& options,
                                 const std::function<void(std::int64_t, std::int64_t)>& progress) {
  if (options.prompts < 1) fail("{} prompts, expected at least 1", options.prompts);
  const ModelConfig& config = engine.config();
  OutputError measure(engine, measure_options(options));
  HeadScores result{.layers = config.layers, .kv_heads = config.kv_heads, .scores = {}};
  const auto heads =
      static_cast<std::size_t>(config.layers) * static_cast<std::size_t>(config.kv_heads);
  result.scores.resize(heads);

  // All prompts first: a length that does not work is found before the work starts.
  Random random(options.seed);
  std::vector<PasskeyPrompt> prompts;
  std::int64_t total = 0;
  for (const std::int64_t length : prompt_lengths(options)) {
    prompts.push_back(make_passkey_prompt(
        engine.tokenizer(), filler,
        {.tokens = length, .keys = keys_in(length, options), .words = options.words}, random));
    total += length;
  }
  std::int64_t right = 0;
  for (const PasskeyPrompt& prompt : prompts) {
    std::vector<std::int64_t> rows;  // the row before a token predicts it
    for (const HiddenKey& key : prompt.keys) {
      for (std::int64_t i = 0; i < key.count; ++i) rows.push_back(key.answer + i - 1);
    }
    const RowLosses losses = measure.measure(prompt.tokens, rows, [&](std::int64_t done) {
      if (progress) progress(result.tokens + done, total);
    });
    for (std::int64_t r = 0; r < losses.rows; ++r) {
      for (std::size_t h = 0; h < heads; ++h) {
        result.scores[h] += losses.losses[static_cast<std::size_t>(r) * heads + h] /
                            static_cast<double>(losses.rows);
      }
      const auto next = static_cast<std::size_t>(rows[static_cast<std::size_t>(r)] + 1);
      right += losses.likely[static_cast<std::size_t>(r)] == prompt.tokens[next] ? 1 : 0;
    }
    result.positions += losses.rows;
    result.tokens += std::ssize(prompt.tokens);
  }
  for (double& score : result.scores) score /= static_cast<double>(prompts.size());
  result.answer_accuracy = static_cast<double>(right) / static_cast<double>(result.positions);
  return result;
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

AttentionPattern pattern_from_scores(const HeadScores& scores,
                                     const OutputErrorIdentifyOptions& options) {
  return {.layers = scores.layers,
          .kv_heads = scores.kv_heads,
          .gates = gates_from_scores(scores.scores),
          .sink_size = options.sink,
          .recent_size = options.recent,
          .config_json = {}};
}

std::string describe_output_error(const Engine& engine, const FillerText& filler,
                                  const HeadScores& scores,
                                  const OutputErrorIdentifyOptions& options) {
  const std::vector<std::int64_t> lengths = prompt_lengths(options);
  std::vector<int> keys;
  for (const std::int64_t length : lengths) keys.push_back(keys_in(length, options));
  const nlohmann::ordered_json made = {
      {"method", "output-error"},
      {"model", engine.config().name},
      {"model_fingerprint", engine.fingerprint()},
      {"text", std::filesystem::path(filler.name()).filename().string()},
      {"text_tokens", filler.size()},
      {"seed", options.seed},
      {"prompt_tokens", lengths},
      {"keys", keys},
      {"words", options.words},
      {"kv_dtype", std::string(name(options.kv))},
      {"positions", scores.positions},
      {"answer_accuracy", scores.answer_accuracy},
      {"gate", "score / (score + median score)"},
      {"date", today()},
  };
  return made.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace sedpa
