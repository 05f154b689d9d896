#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/common.h"
#include "cli/eval_commands.h"
#include "cli/shipped_text.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/memory.h"
#include "sedpa/eval/passkey.h"
#include "sedpa/format/attention_pattern.h"

namespace sedpa::cli {
namespace {

struct PasskeyCommand {
  ModelOptions model;
  HeadOptions heads;
  KvOptions kv;
  std::vector<std::int64_t> lengths = {1000, 4000};
  std::int64_t depths = 10;
  std::int64_t samples = 1;
  std::string text;
  std::uint64_t seed = 1;
  bool reversed = false;
  std::int64_t chunk = 0;
};

// The same number of heads streams, but those with the highest gates.
void reverse(PlannedHeads& heads, const std::string& directory) {
  AttentionPattern pattern = load_attention_pattern(directory);
  for (double& gate : pattern.gates) gate = 1 - gate;
  heads.plan = HeadPlan::from_gates(pattern.gates, pattern.layers, pattern.kv_heads, heads.sparsity,
                                    heads.retrieval, heads.streaming);
}

void run(const PasskeyCommand& command) {
  if (command.reversed && command.heads.pattern.empty()) {
    throw UsageError("--reversed needs --pattern DIR");
  }
  const auto engine = open_engine(command.model);
  PlannedHeads heads = plan_heads(command.heads, *engine);
  if (command.reversed) reverse(heads, command.heads.pattern);
  const std::vector<PasskeyCase> cases =
      passkey_cases(command.lengths, command.depths, command.samples);
  const FillerText filler = FillerText::read(engine->tokenizer(), text_or_shipped(command.text));
  const SessionOptions options{
      .context = passkey_context(*std::max_element(command.lengths.begin(), command.lengths.end())),
      .heads = heads.plan,
      .kv = command.kv.dtype(),
      .chunk = command.chunk};
  load(*engine, options);
  Session session(*engine, options);

  const bool json = command.model.json;
  ProgressBar bar("asking");
  std::int64_t right = 0;
  std::uint64_t read = 0;
  std::uint64_t to_read = 0;
  for (const PasskeyCase& test : cases) to_read += static_cast<std::uint64_t>(test.length);
  for (const PasskeyCase& test : cases) {
    const PasskeyOutcome outcome =
        run_passkey(session, engine->tokenizer(), filler, test, command.seed,
                    [&](std::int64_t done, std::int64_t) {
                      bar.update(read + static_cast<std::uint64_t>(done), to_read);
                    });
    read += static_cast<std::uint64_t>(test.length);
    right += outcome.right ? 1 : 0;
    bar.clear();
    if (json) {
      const nlohmann::ordered_json line = {{"prompt_tokens", test.length},
                                           {"depth", test.depth},
                                           {"sample", test.sample},
                                           {"expected", outcome.expected},
                                           {"text", outcome.text},
                                           {"score", outcome.right ? 1 : 0},
                                           {"prefill_seconds", outcome.prefill_seconds},
                                           {"decode_seconds", outcome.decode_seconds}};
      print_json(line);
    } else {
      print(fmt::format("{:>6} tokens, depth {:.2f}: {} {}\n", test.length, test.depth,
                        outcome.expected,
                        outcome.right ? "right" : fmt::format("wrong: \"{}\"", outcome.text)));
    }
  }
  const double score = static_cast<double>(right) / static_cast<double>(cases.size());
  if (json) {
    nlohmann::ordered_json line = run_fields(*engine, heads, options);
    line["reversed"] = command.reversed;
    line["seed"] = command.seed;
    line["cases"] = cases.size();
    line["score"] = score;
    line["peak_bytes"] = peak_resident_memory();
    print_json(line);
  } else {
    print(fmt::format("score {:.3f}: {} of {} right\n", score, right, cases.size()));
  }
}

}  // namespace

void add_eval_passkey(CLI::App& eval) {
  auto options = std::make_shared<PasskeyCommand>();
  CLI::App& command = *eval.add_subcommand(
      "passkey", "whether a model finds a number hidden in a long text, by length and depth");
  add_model_options(command, options->model);
  const std::string group = "Measurement";
  command.add_option("--lengths", options->lengths, "tokens of the prompts")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{64}, std::int64_t{1} << 30))
      ->capture_default_str()
      ->type_name("N,N,...")
      ->group(group);
  command.add_option("--depths", options->depths, "evenly spaced, from the start to the end")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--samples", options->samples, "questions of each length and depth")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_option("--text", options->text,
                  "text to hide numbers in: a file, or a directory of files; default: the book "
                  "that ships")
      ->type_name("PATH")
      ->group(group);
  command.add_option("--seed", options->seed, "of texts and numbers")
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_flag("--reversed", options->reversed,
                "let the heads with the highest gates stream: a good pattern then fails")
      ->group(group);
  add_head_options(command, options->heads);
  add_kv_options(command, options->kv);
  add_chunk_option(command, options->chunk);
  add_examples(command, {"sedpa eval passkey -m model.gguf --lengths 1000,4000 --depths 5",
                         "sedpa eval passkey -m model.gguf --lengths 8000 --pattern pattern "
                         "--sparsity 0.5 --json"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli
