#include "cli/identify.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "cli/commands.h"
#include "cli/validators.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"

namespace sedpa::cli {

std::int64_t identify_context(const IdentifyOptions& options, const ModelConfig& config,
                              std::int64_t usual) {
  const std::int64_t context = options.context.value_or(std::min(
      {usual, config.trained_context, std::int64_t{config.sliding_window.value_or(1 << 30)}}));
  if (context <= std::int64_t{options.sink} + options.recent) {
    fail(
        "a context of {} tokens lies within the window of {} + {}: no head can lose anything; use "
        "a longer --context or a smaller --sink and --recent",
        context, options.sink, options.recent);
  }
  return context;
}

void check_writable(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail("{}: cannot make the directory: {}", directory, error.message());
  AtomicFile((std::filesystem::path(directory) / "config.json").string());  // not committed
}

namespace {

std::vector<CLI::Option*> add_gate_options(CLI::App& command, GateOptions& options) {
  const std::vector<CLI::Option*> all = {
      command.add_option("--steps", options.learning.steps, "documents to learn from, one a step")
          ->check(CLI::Range(1, 1 << 30))
          ->capture_default_str()
          ->type_name("N"),
      command
          .add_option("--shortest", options.shortest,
                      "tokens of the shortest document; the longest has --context, and 50 lengths "
                      "are drawn from")
          ->check(CLI::Range(1, 1 << 30))
          ->capture_default_str()
          ->type_name("N"),
      command
          .add_option("--lr", options.learning.learning_rate,
                      "learning rate, after the first and before the last fifth of the steps")
          ->check(positive_number())
          ->capture_default_str()
          ->type_name("R"),
      command
          .add_option("--reg", options.learning.regularization,
                      "how hard gates are pulled to 0: raise it when too many stay near 1")
          ->check(at_least_zero())
          ->capture_default_str()
          ->type_name("R"),
      command
          .add_option("--checkpoint-every", options.checkpoint_every,
                      "steps between writings of DIR/gate_training.json")
          ->check(CLI::Range(1, 1 << 30))
          ->capture_default_str()
          ->type_name("N"),
      command
          .add_option("--resume", options.resume,
                      "go on from such a file, with the same model, text and settings")
          ->type_name("FILE"),
      command.add_flag(
          "--raw-gates", options.raw,
          "leave gates above 0.9 as trained, instead of ranking them by output error")};
  for (CLI::Option* option : all) option->group("Training gates");
  return all;
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
                  "answers with hidden keys; copy-score: how often a head looks at the very token "
                  "of the key that is being copied; gates: trained gates, which takes minutes on a "
                  "GPU, hours on a CPU, where the others take seconds")
      ->check(CLI::IsMember({"output-error", "copy-score", "gates"}))
      ->capture_default_str()
      ->type_name("output-error|copy-score|gates")
      ->group(group);
  command
      .add_option("--text", options->text,
                  "text to hide keys in: a text file, a JSONL file, or a directory of them; "
                  "default: the book that ships")
      ->type_name("PATH")
      ->group(group);
  command
      .add_option("--hide", options->hide,
                  "what the text hides: keys of random words, announced as secrets; facts, plain "
                  "sentences that nothing announces; both")
      ->check(CLI::IsMember({"keys", "facts", "both"}))
      ->capture_default_str()
      ->type_name("keys|facts|both")
      ->group(group);
  add_context_option(command, options->context,
                     "tokens of the longest prompt; default: 8192, or what the model takes; gates: "
                     "what the model takes");
  add_chunk_option(command, options->chunk);
  const std::vector<CLI::Option*> of_scores = {
      command.add_option("--prompts", options->prompts, "prompts to read")
          ->check(CLI::Range(1, 1000))
          ->capture_default_str()
          ->type_name("N")
          ->group(group)};
  command.add_option("--seed", options->seed, "of the prompts")
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--sink", options->sink, "first tokens that a streaming head keeps")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--recent", options->recent, "last tokens that a streaming head keeps")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  const std::vector<CLI::Option*> of_gates = add_gate_options(command, options->gates);
  add_examples(command,
               {"sedpa identify -m model.gguf -o pattern",
                "sedpa identify -m model.gguf -o pattern --method copy-score --text books/",
                "sedpa identify -m model.gguf -o pattern --method gates --steps 500",
                "sedpa identify -m model.gguf -o pattern --method gates --steps 500 --resume "
                "pattern/gate_training.json",
                "sedpa generate -m model.gguf --pattern pattern --sparsity 0.5 -f book.txt"});
  command.callback([options, of_gates, of_scores] {
    const bool gates = options->method == "gates";
    for (const CLI::Option* option : gates ? of_scores : of_gates) {
      if (option->count() > 0) {
        throw UsageError(
            fmt::format("{} means nothing to --method {}", option->get_name(), options->method));
      }
    }
    gates ? identify_by_gates(*options) : identify_by_scores(*options);
  });
}

}  // namespace sedpa::cli
