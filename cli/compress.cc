#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "cli/calibration_text.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/shipped_text.h"
#include "cli/validators.h"
#include "sedpa/compress/compress.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/memory.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  HeadOptions heads;
  std::string output;
  std::string recipe = "calibrated";
  std::string budget;
  std::string thin_heads;
  std::optional<double> max_kl;
  std::string type;
  CalibrationTextOptions text;
};

constexpr double kUsualCut = 0.25;

/// The share that "-25%" takes away.
double parse_budget(const char* option, const std::string& text) {
  double percent = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, percent);
  if (error != std::errc() || stop + 1 != end || *stop != '%' || !(percent < 0) ||
      !(percent > -100)) {
    throw UsageError(
        fmt::format("{} is '{}', expected a share to take away, such as -25%", option, text));
  }
  return -percent / 100;
}

CompressOptions compress_options(const Options& options) {
  CompressOptions result{.max_kl = options.max_kl, .seed = options.text.seed};
  if (!options.budget.empty()) {
    result.cut = parse_budget("--attention-parameters", options.budget);
  }
  const bool thin = !options.thin_heads.empty();
  // Which heads, the model's configuration tells.
  if (thin) result.thin = {.cut = parse_budget("--thin-heads", options.thin_heads), .heads = {}};
  if (!options.type.empty()) {
    for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::q8_0}) {
      if (name(dtype) == options.type) result.type = dtype;
    }
  }
  const bool paper = options.recipe == "paper";
  if (result.cut && result.max_kl) {
    throw UsageError("--attention-parameters and --max-kl are two budgets, expected one");
  }
  if (paper && options.max_kl) throw UsageError("--max-kl means nothing to --recipe paper");
  if (paper && options.heads.pattern.empty()) {
    throw UsageError("--recipe paper needs a --pattern: it goes by which heads retrieve");
  }
  if (paper && thin) {
    throw UsageError("--thin-heads goes with --recipe calibrated: it looks at what a text shows");
  }
  if (thin && options.max_kl) {
    throw UsageError("--max-kl bounds what factors lose: give --thin-heads a run of its own");
  }
  if (!paper && !thin && (!options.heads.pattern.empty() || options.heads.sparsity)) {
    throw UsageError(
        "--pattern and --sparsity mean nothing to --recipe calibrated, which measures instead, "
        "unless --thin-heads asks for thin heads");
  }
  if (paper && (options.heads.sink || options.heads.recent)) {
    throw UsageError(
        "--sink and --recent mean nothing to --recipe paper, which looks at matrices only");
  }
  if (!paper && !thin && !result.cut && !result.max_kl) result.cut = kUsualCut;
  if (options.model.rope_base || options.model.rope_scaling) {
    throw UsageError(
        "--rope-freq-base and --rope-scaling are not kept in a file: give them to what "
        "runs it");
  }
  return result;
}

/// "Query 288 to 416, 3 whole": what became of the ranks of one projection.
std::string rank_line(const CompressResult& result, std::size_t projection, const char* label) {
  std::int64_t least = 0;
  std::int64_t most = 0;
  std::int64_t whole = 0;
  for (std::size_t i = projection; i < result.ranks.size(); i += 4) {
    const std::int64_t rank = result.ranks[i];
    if (rank == 0) {
      ++whole;
      continue;
    }
    least = least == 0 ? rank : std::min(least, rank);
    most = std::max(most, rank);
  }
  const std::string range = most == 0 ? "none" : fmt::format("{} to {}", least, most);
  return fmt::format("  {:<8}ranks {}, {} whole\n", label, range, whole);
}

/// "keys 32 to 64, values 16 to 64 of 64": what became of the heads that are thin now.
std::string width_line(const Engine& engine, const CompressResult& result) {
  HeadWidths least = result.widths.front();
  HeadWidths most = least;
  for (const HeadWidths& widths : result.widths) {
    least = {.key = std::min(least.key, widths.key), .value = std::min(least.value, widths.value)};
    most = {.key = std::max(most.key, widths.key), .value = std::max(most.value, widths.value)};
  }
  return fmt::format("{} to {} numbers of keys, {} to {} of values instead of {}", least.key,
                     most.key, least.value, most.value, engine.config().head_dim);
}

double change(std::int64_t before, std::int64_t after) {
  return static_cast<double>(after) / static_cast<double>(before) - 1;
}

void report_json(const Options& options, const Engine& engine, const CompressResult& result,
                 double seconds) {
  ordered_json line = {
      {"model", engine.model_path()},
      {"output", options.output},
      {"recipe", options.recipe},
      {"device", engine.device()},
      {"threads", engine.threads()},
      {"attention_parameters_before", result.attention_before},
      {"attention_parameters", result.attention_after},
      {"attention_parameters_change", change(result.attention_before, result.attention_after)},
      {"parameters_before", result.parameters_before},
      {"parameters", result.parameters_after},
      {"parameters_change", change(result.parameters_before, result.parameters_after)},
      {"ranks", result.ranks},
      {"expected_kl", result.expected_kl},
      {"kl_running", result.kl_running},
      {"kl_retrieving", result.kl_retrieving},
      {"seed", options.text.seed},
      {"resumed", result.resumed},
      {"seconds", seconds},
      {"peak_bytes", peak_resident_memory()}};
  if (!result.widths.empty()) {
    std::vector<std::int32_t> keys;
    std::vector<std::int32_t> values;
    for (const HeadWidths& widths : result.widths) {
      keys.push_back(widths.key);
      values.push_back(widths.value);
    }
    line["thin_kv_bytes_before"] = result.kv_bytes_before;
    line["thin_kv_bytes"] = result.kv_bytes_after;
    line["thin_kv_bytes_change"] = change(result.kv_bytes_before, result.kv_bytes_after);
    line["key_widths"] = keys;
    line["value_widths"] = values;
  }
  print_json(line);
}

void report(const Options& options, const Engine& engine, const CompressResult& result,
            double seconds) {
  if (options.model.json) return report_json(options, engine, result, seconds);
  std::string text = fmt::format(
      "{}: {} attention parameters instead of {} ({:+.1f} %), {} instead of {} in all ({:+.1f} %), "
      "{:.1f} s here\n",
      options.output, result.attention_after, result.attention_before,
      100 * change(result.attention_before, result.attention_after), result.parameters_after,
      result.parameters_before, 100 * change(result.parameters_before, result.parameters_after),
      seconds);
  if (!result.widths.empty()) {
    text += fmt::format(
        "  heads   {} bytes of keys and values a token instead of {} ({:+.1f} %) where they "
        "became thin: {}\n",
        result.kv_bytes_after, result.kv_bytes_before,
        100 * change(result.kv_bytes_before, result.kv_bytes_after), width_line(engine, result));
  }
  std::size_t projection = 0;
  for (const char* label : {"query", "key", "value", "output"}) {
    if (!result.ranks.empty()) text += rank_line(result, projection++, label);
  }
  text += fmt::format(
      "Divergence from the original: {:.4f} on running text, {:.4f} where it "
      "retrieves.\n",
      result.kl_running, result.kl_retrieving);
  print(text);
}

void run(const Options& options) {
  CompressOptions wanted = compress_options(options);
  const auto start = std::chrono::steady_clock::now();
  const auto engine = open_engine(options.model);
  if (options.recipe == "paper") wanted.published = plan_heads(options.heads, *engine).plan;
  if (wanted.thin) wanted.thin->heads = plan_heads(options.heads, *engine).plan;
  CalibrationTextOptions shown = options.text;
  shown.path = text_or_shipped(shown.path);
  shown.probes_only = wanted.published.has_value();
  shown.thin_heads = wanted.thin.has_value();
  const CalibrationText text = make_calibration_text(*engine, shown);
  engine->check_memory(plan_compression(*engine, text, wanted), "use fewer --calibration-tokens");
  if (shown.context) note_untrained(*engine, *shown.context);
  show_notes();
  ProgressBar bar("compressing");
  const CompressResult result = compress(
      *engine, text, wanted, options.output,
      [&](const char* what, std::int64_t done, std::int64_t total) {
        bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total), what);
      });
  bar.clear();
  report(options, *engine, result,
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace

void add_compress(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "compress",
      "store the attention projections as low-rank factors, or KV heads with fewer numbers, in a "
      "file of their own");
  add_model_options(command, options->model);
  const std::string group = "Compression";
  command.add_option("-o,--output", options->output, "the file, or directory, to write")
      ->required()
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--recipe", options->recipe,
                  "calibrated: factors and ranks by what a text shows; paper: by singular values, "
                  "as published, for the heads that --pattern and --sparsity say")
      ->check(CLI::IsMember({"calibrated", "paper"}))
      ->capture_default_str()
      ->type_name("calibrated|paper")
      ->group(group);
  command
      .add_option("--attention-parameters", options->budget,
                  "the share of query, key, value and output numbers to take away, -25% where "
                  "nothing is said; paper: its own point where nothing is said, else without its "
                  "floor and exceptions")
      ->type_name("-P%")
      ->group(group);
  command
      .add_option("--thin-heads", options->thin_heads,
                  "the share to take away of the bytes that a token's keys and values take in the "
                  "cache: all heads' or, with --pattern, the retrieval heads', which alone become "
                  "thin then; factors are made besides only where --attention-parameters asks for "
                  "them, a share of what is left")
      ->type_name("-P%")
      ->group(group);
  add_pattern_options(command, options->heads, group);
  command
      .add_option("--sparsity", options->heads.sparsity,
                  "paper, --thin-heads: share of KV heads that stream; 0.5")
      ->check(share())
      ->needs("--pattern")
      ->type_name("S")
      ->group(group);
  command
      .add_option("--max-kl", options->max_kl,
                  "take away what keeps the divergence from the original within this, instead")
      ->check(positive_number())
      ->type_name("X")
      ->group(group);
  command
      .add_option("--type", options->type,
                  "of the new matrices; default: the model's own, q8_0 for quantised ones")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}))
      ->type_name("f32|f16|bf16|q8_0")
      ->group(group);
  command
      .add_option("--text", options->text.path,
                  "what the model is shown: a text file, a JSONL file, or a directory of them; "
                  "default: the book that ships")
      ->type_name("PATH")
      ->group(group);
  command
      .add_option("--calibration-tokens", options->text.tokens,
                  "how much of it; thin heads gain by 100000 and more")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_option("--context", options->text.context,
                  "tokens of a sequence; default: 1024, 4096 for --thin-heads")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->type_name("N")
      ->group(group);
  command.add_option("--seed", options->text.seed, "of the choice of text")
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  add_examples(command,
               {"sedpa compress -m model.gguf -o smaller.gguf --attention-parameters -25%",
                "sedpa compress -m model.gguf -o smaller.gguf --max-kl 0.02 --text books/",
                "sedpa compress -m model.gguf -o thin.gguf --thin-heads -25% --pattern pattern",
                "sedpa compress -m model.gguf -o published.gguf --recipe paper --pattern pattern",
                "sedpa generate -m smaller.gguf -p 'Once upon a time'"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli
