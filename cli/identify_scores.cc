#include <fmt/format.h>

#include <chrono>

#include "cli/identify.h"
#include "cli/shipped_text.h"
#include "sedpa/core/log.h"
#include "sedpa/core/memory.h"
#include "sedpa/identify/head_scoring.h"
#include "sedpa/identify/pattern_origin.h"

namespace sedpa::cli {
namespace {

constexpr std::int64_t kScoreContext = 8192;
constexpr double kLowAccuracy = 0.5;

struct ScoredPattern {
  HeadScores scores;
  AttentionPattern pattern;
  std::string gate;  // how it comes from the score
};

ScoredPattern score(const std::string& method, Engine& engine, const FillerText& filler,
                    const HeadScoringOptions& options, const ScoringProgress& progress) {
  ScoredPattern result;
  if (method == "copy-score") {
    result.scores = score_by_copying(engine, filler, options, progress);
    result.pattern = pattern_from_gates(result.scores, result.scores.scores, options);
    result.pattern.query_heads = result.scores.query_heads;
    result.pattern.query_scores = result.scores.query_scores;
    result.gate = "highest score of the KV head's query heads";
  } else {
    result.scores = score_by_output_error(engine, filler, options, progress);
    result.pattern =
        pattern_from_gates(result.scores, gates_from_scores(result.scores.scores), options);
    result.gate = "score / (score + median score)";
  }
  return result;
}

}  // namespace

void identify_by_scores(const IdentifyOptions& options) {
  const auto engine = open_engine(options.model);
  const HeadScoringOptions scoring{
      .context = identify_context(options, engine->config(), kScoreContext),
      .prompts = options.prompts,
      .hidden = parse_hidden_kind(options.hide),
      .seed = options.seed,
      .sink = options.sink,
      .recent = options.recent,
      .chunk = options.chunk};
  const FillerText filler = FillerText::read(engine->tokenizer(), text_or_shipped(options.text));
  check_head_scoring(*engine, filler, scoring);
  check_writable(options.output);
  load(*engine, scoring_session(*engine, scoring));
  note_untrained(*engine, scoring.context);

  const auto start = std::chrono::steady_clock::now();
  ProgressBar bar("identifying");
  const ScoredPattern result =
      score(options.method, *engine, filler, scoring, [&](std::int64_t done, std::int64_t total) {
        bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
      });
  bar.clear();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const HeadScores& scores = result.scores;
  save_attention_pattern(options.output, result.pattern,
                         pattern_origin(options.method, *engine, filler, scoring.seed,
                                        scoring_settings(scores, scoring, result.gate)));
  if (options.model.json) {
    print_json({{"model", engine->model_path()},
                {"device", engine->device()},
                {"threads", engine->threads()},
                {"method", options.method},
                {"output", options.output},
                {"layers", scores.layers},
                {"kv_heads", scores.kv_heads},
                {"sink", scoring.sink},
                {"recent", scoring.recent},
                {"seed", scoring.seed},
                {"prompt_tokens", scores.tokens()},
                {"positions", scores.positions},
                {"answer_accuracy", scores.answer_accuracy},
                {"seconds", seconds.count()},
                {"peak_bytes", peak_resident_memory()}});
  } else {
    print(
        fmt::format("{}: {} layers x {} KV heads scored at {} positions of {} tokens in {:.1f} s\n"
                    "The model itself predicts {:.1f} % of the answers' tokens.\n",
                    options.output, scores.layers, scores.kv_heads, scores.positions,
                    scores.tokens(), seconds.count(), 100 * scores.answer_accuracy));
  }
  if (scores.answer_accuracy < kLowAccuracy) {
    log(
        fmt::format("with full attention the model predicts only {:.0f} % of the answers' tokens, "
                    "so these scores may tell little about its heads",
                    100 * scores.answer_accuracy));
  }
}

}  // namespace sedpa::cli
