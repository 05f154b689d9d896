#include "cli/identify.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "cli/commands.h"
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
                  "of the key that is being copied")
      ->check(CLI::IsMember({"output-error", "copy-score"}))
      ->capture_default_str()
      ->type_name("output-error|copy-score")
      ->group(group);
  command
      .add_option("--text", options->text,
                  "text to hide keys in: a text file, a JSONL file, or a directory of them; "
                  "default: the book that ships")
      ->type_name("PATH")
      ->group(group);
  add_context_option(command, options->context,
                     "tokens of the longest prompt; default: 8192, or what the model takes");
  add_chunk_option(command, options->chunk);
  command.add_option("--prompts", options->prompts, "prompts to read")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
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
  add_examples(command,
               {"sedpa identify -m model.gguf -o pattern",
                "sedpa identify -m model.gguf -o pattern --method copy-score --text books/",
                "sedpa generate -m model.gguf --pattern pattern --sparsity 0.5 -f book.txt"});
  command.callback([options] { identify_by_scores(*options); });
}

}  // namespace sedpa::cli
