#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>

#include "cli/eval_commands.h"
#include "cli/needle_runs.h"
#include "sedpa/core/fail.h"
#include "sedpa/eval/masking.h"
#include "sedpa/eval/passkey.h"
#include "sedpa/format/attention_pattern.h"
#include "sedpa/format/json.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa::cli {
namespace {

constexpr std::int64_t kUsualMasked = 30;

struct MaskingCommand {
  ModelOptions model;
  KvOptions kv;
  NeedleOptions needle;
  NiahTaskOptions niah;
  std::string scores;
  std::vector<std::string> masked;
  std::string test = "niah";
  int random_sets = 3;
  bool kv_heads = false;
  std::int64_t chunk = 0;
};

// Some heads, and the fields that say which.
struct HeadSet {
  nlohmann::ordered_json label;
  MaskedHeads heads;
};

// "30" heads, or "0.1" of them.
std::int64_t head_count(const std::string& text, std::int64_t heads) {
  const bool share = text.find('.') != std::string::npos;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !(number >= 0) ||
      (share && number > 1) || (!share && number != std::floor(number))) {
    throw UsageError(fmt::format(
        "--masked is '{}', expected a number of heads, or a share of them as 0.1", text));
  }
  const double count = share ? std::round(number * static_cast<double>(heads)) : number;
  if (count > static_cast<double>(heads)) {
    fail("{} heads are to be masked, but there are {}", text, heads);
  }
  return static_cast<std::int64_t>(count);
}

std::vector<std::int64_t> head_counts(const MaskingCommand& command, std::int64_t heads) {
  if (command.masked.empty()) return {std::min(kUsualMasked, heads / 3)};
  std::vector<std::int64_t> counts;
  for (const std::string& text : command.masked) counts.push_back(head_count(text, heads));
  std::sort(counts.begin(), counts.end());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

std::vector<HeadSet> head_sets(const MaskingCommand& command, const RankedHeads& ranked) {
  const auto label = [](const char* mask, std::int64_t count, const nlohmann::ordered_json& seed) {
    return nlohmann::ordered_json{{"mask", mask}, {"masked", count}, {"mask_seed", seed}};
  };
  std::vector<HeadSet> sets = {{label("none", 0, nullptr), {}}};
  for (const std::int64_t count : head_counts(command, ranked.size())) {
    if (count == 0) continue;
    sets.push_back({label("top", count, nullptr), ranked.top(count)});
    sets.push_back({label("bottom", count, nullptr), ranked.bottom(count)});
    for (int seed = 1; seed <= command.random_sets; ++seed) {
      sets.push_back(
          {label("random", count, seed), ranked.random(count, static_cast<std::uint64_t>(seed))});
    }
  }
  return sets;
}

AttentionPattern load_scores(const MaskingCommand& command, const Engine& engine) {
  AttentionPattern pattern = load_attention_pattern(command.scores);
  const ModelConfig& config = engine.config();
  if (pattern.layers != config.layers || pattern.kv_heads != config.kv_heads) {
    fail("{}: the pattern is for {} layers x {} KV heads, but {} has {} x {}", command.scores,
         pattern.layers, pattern.kv_heads, engine.model_path(), config.layers, config.kv_heads);
  }
  return pattern;
}

void run(const MaskingCommand& command) {
  const auto engine = open_engine(command.model);
  refuse_thin_heads(engine->config(), "masking heads");
  const RankedHeads ranked(load_scores(command, *engine), engine->config().query_heads,
                           command.kv_heads);
  const std::vector<HeadSet> sets = head_sets(command, ranked);
  const FillerText filler = command.needle.filler(*engine);
  std::unique_ptr<NeedleTask> task;
  if (command.test == "niah") {
    task = make_niah_task(command.niah, *engine, filler, command.needle.seed);
  } else {
    task = std::make_unique<PasskeyTask>(engine->tokenizer(), filler, command.needle.seed);
  }
  const std::vector<NeedleCase> cases = command.needle.cases(*task);
  const SessionOptions options{.context = command.needle.context(*task),
                               .heads = engine->full_plan(),
                               .kv = command.kv.dtype(),
                               .chunk = command.chunk};
  const nlohmann::ordered_json ranking = {{"scores", command.scores},
                                          {"unit", ranked.of_kv_heads() ? "kv" : "query"},
                                          {"heads_in_all", ranked.size()}};
  nlohmann::ordered_json settings = needle_settings(
      command.test, *engine, options, command.model.compute, filler, command.needle.seed);
  settings.update({{"needles", command.niah.needles},
                   {"ask_all", command.niah.ask_all},
                   {"chat_template", command.niah.chat_template},
                   {"ranking", ranked.fingerprint()}});
  settings.update(ranking);
  std::vector<std::string> keys = {"mask", "masked", "mask_seed"};
  for (const std::string& key : case_keys()) keys.push_back(key);
  CaseLog log(command.needle.out, settings, keys);
  note_untrained(*engine, options.context);
  load(*engine, options);
  Session session(*engine, options);

  for (const HeadSet& set : sets) {
    mask_heads(session, set.heads);
    const double score = ask_cases(session, *task, cases, set.label, log, command.model.json);
    nlohmann::ordered_json line = {
        {"model", engine->model_path()}, {"device", engine->device()}, {"test", command.test}};
    line.update(ranking);
    line.update(set.label);
    line["cases"] = cases.size();
    line["score"] = score;
    log.add(line);
    if (command.model.json) {
      print_json(line);
    } else {
      print(fmt::format("{} {} of {} {} heads masked: score {:.3f} of {} cases\n",
                        set.label["mask"].get<std::string>(), json_text(set.label["masked"]),
                        ranked.size(), ranked.of_kv_heads() ? "KV" : "query", score, cases.size()));
    }
  }
}

}  // namespace

void add_eval_masking(CLI::App& eval) {
  auto options = std::make_shared<MaskingCommand>();
  CLI::App& command = *eval.add_subcommand(
      "masking",
      "what a model no longer finds when some heads are silenced: those with the "
      "highest scores, the lowest, or any");
  add_model_options(command, options->model);
  const std::string group = "Heads";
  command
      .add_option("--scores", options->scores,
                  "attention pattern whose scores rank the heads: of query heads where it has "
                  "them, else of KV heads")
      ->required()
      ->type_name("DIR")
      ->group(group);
  command
      .add_option("--masked", options->masked,
                  "how many heads are silenced: numbers, or shares as 0.1; default: 30, or a third "
                  "where there are fewer than 90")
      ->delimiter(',')
      ->type_name("K,K,...")
      ->group(group);
  command.add_option("--random-sets", options->random_sets, "sets of as many heads by chance")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_flag("--kv-heads", options->kv_heads,
                "silence whole KV heads, whatever scores there are")
      ->group(group);
  command.add_option("--test", options->test, "what is asked: niah or passkey")
      ->check(CLI::IsMember({"niah", "passkey"}))
      ->capture_default_str()
      ->type_name("niah|passkey")
      ->group("Measurement");
  add_needle_options(command, options->needle);
  add_niah_options(command, options->niah);
  add_kv_options(command, options->kv);
  add_chunk_option(command, options->chunk);
  add_examples(command, {"sedpa identify -m model.gguf -o copying --method copy-score",
                         "sedpa eval masking -m model.gguf --scores copying --masked 10,30 "
                         "--lengths 4000 --out masking.jsonl"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli
