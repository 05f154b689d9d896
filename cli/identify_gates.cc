#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "cli/identify.h"
#include "cli/shipped_text.h"
#include "sedpa/core/error.h"
#include "sedpa/core/log.h"
#include "sedpa/core/memory.h"
#include "sedpa/format/json.h"
#include "sedpa/identify/gate_training.h"
#include "sedpa/identify/head_scoring.h"
#include "sedpa/identify/pattern_origin.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;

constexpr double kReportedSparsities[] = {0.25, 0.5, 0.75, 0.85};
/// Of a prompt that saturated gates are ranked by.
constexpr std::int64_t kMostRankingTokens = 8192;
constexpr std::int64_t kFewRankingTokens = 4096;  // below it one prompt, not four from a quarter on

std::string checkpoint_path(const std::string& directory) {
  return (std::filesystem::path(directory) / "gate_training.json").string();
}

/// One run of `identify --method gates`.
class GateRun {
 public:
  explicit GateRun(const IdentifyOptions& options)
      : options_(options),
        engine_(open_engine(options.model)),
        training_{.learning = options.gates.learning,
                  .shortest = options.gates.shortest,
                  .context = identify_context(options, engine_->config(),
                                              engine_->config().trained_context),
                  .hidden = parse_hidden_kind(options.hide),
                  .seed = options.seed,
                  .sink = options.sink,
                  .recent = options.recent,
                  .chunk = options.chunk},
        filler_(FillerText::read(engine_->tokenizer(), text_or_shipped(options.text))) {
    check_gate_training(*engine_, filler_, training_);
    check_writable(options.output);
    load(*engine_, GateTrainer::plan(*engine_, filler_, training_), "use a smaller --context");
  }

  void run() {
    const auto start = Clock::now();
    train();
    const std::int64_t saturated = std::count_if(pattern_.gates.begin(), pattern_.gates.end(),
                                                 [](double gate) { return gate > kSaturatedGate; });
    settings_["saturated_gates"] = saturated;
    if (saturated > 1 && !options_.gates.raw) {
      rank();
      settings_["saturated_ranked_by"] = "output-error";
    }
    save();
    report(saturated, std::chrono::duration<double>(Clock::now() - start).count());
  }

 private:
  using Clock = std::chrono::steady_clock;

  /// Up to the last step, or to Ctrl-C or a loss that is no number: what has been learned is saved.
  void train() {
    GateTrainer trainer(*engine_, filler_, training_);
    if (!options_.gates.resume.empty()) trainer.resume(options_.gates.resume);
    const std::string checkpoint = checkpoint_path(options_.output);
    const auto keep = [&] {
      trainer.save(checkpoint);
      pattern_ = trainer.pattern();
      settings_ = parse_ordered_json(trainer.settings_json(), checkpoint);
    };
    const std::int64_t first = trainer.learner().state().step;
    const auto start = Clock::now();
    ProgressBar bar("training");
    try {
      while (!trainer.done()) {
        const auto step = trainer.step([] { return !interrupted(); });
        if (!step) break;
        steps_ = trainer.learner().state().step;
        const std::chrono::duration<double> passed = Clock::now() - start;
        show(bar, *step, trainer.learner().mean_gate(),
             static_cast<double>(steps_ - first) / passed.count());
        if (steps_ % options_.gates.checkpoint_every == 0) trainer.save(checkpoint);
      }
    } catch (const Interrupted&) {  // seen by the bar
    } catch (const Error&) {
      keep();
      save();
      throw;
    }
    keep();
    if (interrupted()) {
      bar.clear();
      save();
      log(fmt::format("stopped after step {} of {}; go on with --resume {}",
                      trainer.learner().state().step, training_.learning.steps, checkpoint));
      throw Interrupted();
    }
  }

  void show(ProgressBar& bar, const GateTrainer::Step& step, double mean_gate, double rate) const {
    if (options_.model.json) {
      print_json({{"step", steps_},
                  {"prompt_tokens", step.tokens},
                  {"loss", step.loss},
                  {"mean_gate", mean_gate},
                  {"steps_per_second", rate}});
    }
    bar.update(
        static_cast<std::uint64_t>(steps_), static_cast<std::uint64_t>(training_.learning.steps),
        fmt::format("loss {:.3g}, mean gate {:.3f}, {:.2f} steps/s", step.loss, mean_gate, rate));
  }

  /// Training hardly tells saturated gates apart: what each head's output loses does.
  void rank() {
    HeadScoringOptions scoring{.context = std::min(training_.context, kMostRankingTokens),
                               .prompts = training_.context < kFewRankingTokens ? 1 : 4,
                               .hidden = training_.hidden,
                               .seed = training_.seed,
                               .sink = training_.sink,
                               .recent = training_.recent,
                               .chunk = training_.chunk};
    // As few keys as the documents hold, so that a prompt is never too short.
    const std::int64_t shortest = scoring.prompts == 1 ? scoring.context : scoring.context / 4;
    scoring.keys = GateDocuments(engine_->tokenizer(), filler_, training_).keys_in(shortest);
    ProgressBar bar("ranking");
    const HeadScores scores = score_by_output_error(
        *engine_, filler_, scoring, [&](std::int64_t done, std::int64_t total) {
          bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
        });
    pattern_.gates = rank_saturated(pattern_.gates, scores.scores);
  }

  void save() const {
    save_attention_pattern(
        options_.output, pattern_,
        pattern_origin(options_.method, *engine_, filler_, training_.seed, json_text(settings_)));
  }

  void report(std::int64_t saturated, double seconds) const {
    ordered_json cuts = ordered_json::object();
    std::string lines;
    for (const double sparsity : kReportedSparsities) {
      const HeadPlan plan =
          HeadPlan::from_gates(pattern_.gates, pattern_.layers, pattern_.kv_heads, sparsity, {},
                               HeadClass::window(training_.sink, 0, training_.recent));
      const std::int64_t cut = plan.streaming_above(pattern_.gates, kSaturatedGate);
      cuts[fmt::format("{}", sparsity)] = cut;
      lines +=
          fmt::format("At sparsity {:.2f} {} of the {} heads that stream have gates above {}.\n",
                      sparsity, cut, plan.streaming_heads(), kSaturatedGate);
    }
    if (options_.model.json) {
      print_json({{"model", engine_->model_path()},
                  {"device", engine_->device()},
                  {"threads", engine_->threads()},
                  {"method", options_.method},
                  {"output", options_.output},
                  {"layers", pattern_.layers},
                  {"kv_heads", pattern_.kv_heads},
                  {"sink", training_.sink},
                  {"recent", training_.recent},
                  {"seed", training_.seed},
                  {"steps", training_.learning.steps},
                  {"saturated_gates", saturated},
                  {"saturated_cut", cuts},
                  {"seconds", seconds},
                  {"peak_bytes", peak_resident_memory()}});
    } else {
      print(fmt::format("{}: gates of {} layers x {} KV heads after {} steps, {:.1f} s here\n{}",
                        options_.output, pattern_.layers, pattern_.kv_heads,
                        training_.learning.steps, seconds, lines));
    }
  }

  const IdentifyOptions& options_;
  std::unique_ptr<Engine> engine_;
  GateTrainingOptions training_;
  FillerText filler_;
  AttentionPattern pattern_;
  ordered_json settings_;
  std::int64_t steps_ = 0;
};

}  // namespace

void identify_by_gates(const IdentifyOptions& options) { GateRun(options).run(); }

}  // namespace sedpa::cli
