#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/shipped_text.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/log.h"
#include "sedpa/core/memory.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/identify/head_scoring.h"

namespace sedpa::cli {
namespace {

constexpr std::int64_t kDefaultContext = 8192;
constexpr double kLowAccuracy = 0.5;

struct IdentifyOptions {
  ModelOptions model;
  std::string output;
  std::string method = "output-error";
  std::string text;
  std::optional<std::int64_t> context;
  OutputErrorIdentifyOptions scoring;
};

// Found before minutes of work, not after.
void check_writable(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail("{}: cannot make the directory: {}", directory, error.message());
  AtomicFile((std::filesystem::path(directory) / "config.json").string());  // not committed
}

void run(IdentifyOptions& options) {
  const auto engine = open_engine(options.model);
  OutputErrorIdentifyOptions& scoring = options.scoring;
  const ModelConfig& config = engine->config();
  scoring.context =
      options.context.value_or(std::min({kDefaultContext, config.trained_context,
                                         std::int64_t{config.sliding_window.value_or(1 << 30)}}));
  if (scoring.context <= std::int64_t{scoring.sink} + scoring.recent) {
    fail(
        "a context of {} tokens lies within the window of {} + {}: no head can lose anything; use "
        "a longer --context or a smaller --sink and --recent",
        scoring.context, scoring.sink, scoring.recent);
  }
  const FillerText filler = FillerText::read(engine->tokenizer(), text_or_shipped(options.text));
  check_writable(options.output);
  load(*engine, output_error_session(*engine, scoring));

  const auto start = std::chrono::steady_clock::now();
  ProgressBar bar("identifying");
  const HeadScores scores =
      score_by_output_error(*engine, filler, scoring, [&](std::int64_t done, std::int64_t total) {
        bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
      });
  bar.clear();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  save_attention_pattern(options.output, pattern_from_scores(scores, scoring),
                         describe_output_error(*engine, filler, scores, scoring));
  if (options.model.json) {
    const nlohmann::ordered_json report = {{"model", engine->model_path()},
                                           {"device", engine->device()},
                                           {"threads", engine->threads()},
                                           {"method", options.method},
                                           {"output", options.output},
                                           {"layers", scores.layers},
                                           {"kv_heads", scores.kv_heads},
                                           {"sink", scoring.sink},
                                           {"recent", scoring.recent},
                                           {"seed", scoring.seed},
                                           {"prompt_tokens", scores.tokens},
                                           {"positions", scores.positions},
                                           {"answer_accuracy", scores.answer_accuracy},
                                           {"seconds", seconds.count()},
                                           {"peak_bytes", peak_resident_memory()}};
    print_json(report);
  } else {
    print(
        fmt::format("{}: {} layers x {} KV heads scored at {} positions of {} tokens in {:.1f} s\n"
                    "The model itself predicts {:.1f} % of the keys' tokens.\n",
                    options.output, scores.layers, scores.kv_heads, scores.positions, scores.tokens,
                    seconds.count(), 100 * scores.answer_accuracy));
  }
  if (scores.answer_accuracy < kLowAccuracy) {
    log(fmt::format(
        "with full attention the model predicts only {:.0f} % of the keys' tokens, so these scores "
        "may tell little about its heads",
        100 * scores.answer_accuracy));
  }
}

}  // namespace

void add_identify(CLI::App& app) {
  auto options = std::make_shared<IdentifyOptions>();
  CLI::App& command = *app.add_subcommand(
      "identify", "find out which KV heads need the whole past, and write an attention pattern");
  add_model_options(command, options->model);
  const std::string group = "Identification";
  command.add_option("-o,--output", options->output, "directory of the attention pattern")
      ->required()
      ->type_name("DIR")
      ->group(group);
  command
      .add_option("--method", options->method,
                  "output-error: what a head's output loses under the window, where the model "
                  "answers with hidden keys")
      ->check(CLI::IsMember({"output-error"}))
      ->capture_default_str()
      ->type_name("output-error")
      ->group(group);
  command
      .add_option("--text", options->text,
                  "text to hide keys in: a file, or a directory of files; default: the book that "
                  "ships")
      ->type_name("PATH")
      ->group(group);
  add_context_option(command, options->context,
                     "tokens of the longest prompt; default: 8192, or what the model takes");
  add_chunk_option(command, options->scoring.chunk);
  command.add_option("--prompts", options->scoring.prompts, "prompts to read")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--seed", options->scoring.seed, "of the prompts")
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--sink", options->scoring.sink, "first tokens that a streaming head keeps")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_option("--recent", options->scoring.recent, "last tokens that a streaming head keeps")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  add_examples(command,
               {"sedpa identify -m model.gguf -o pattern",
                "sedpa generate -m model.gguf --pattern pattern --sparsity 0.5 -f book.txt"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli
