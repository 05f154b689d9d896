#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cli/eval_commands.h"
#include "cli/gate_order.h"
#include "cli/needle_runs.h"
#include "sedpa/core/memory.h"
#include "sedpa/eval/niah.h"
#include "sedpa/eval/passkey.h"
#include "sedpa/eval/rouge.h"

namespace sedpa::cli {
namespace {

struct NeedleCommand {
  ModelOptions model;
  HeadOptions heads;
  GateOrderOptions order;
  KvOptions kv;
  NeedleOptions needle;
  NiahTaskOptions niah;
  std::int64_t chunk = 0;
};

using MakeTask =
    std::function<std::unique_ptr<NeedleTask>(const Engine& engine, const FillerText& filler)>;

// One needle test under one head plan. `own` are the test's own settings.
void run(const NeedleCommand& command, const std::string& test, const nlohmann::ordered_json& own,
         const MakeTask& make_task,
         const std::function<void(const NeedleOutcome&, nlohmann::ordered_json&)>& more = {}) {
  const auto engine = open_engine(command.model);
  const PlannedHeads heads = plan_heads(command.heads, command.order, *engine);
  const FillerText filler = command.needle.filler(*engine);
  const std::unique_ptr<NeedleTask> task = make_task(*engine, filler);
  const std::vector<NeedleCase> cases = command.needle.cases(*task);
  const SessionOptions options{.context = command.needle.context(*task),
                               .heads = heads.plan,
                               .kv = command.kv.dtype(),
                               .chunk = command.chunk};
  nlohmann::ordered_json settings =
      needle_settings(test, *engine, options, command.model.compute, filler, command.needle.seed);
  settings.update(own);
  CaseLog log(command.needle.out, settings, case_keys());
  note_untrained(*engine, options.context);
  load(*engine, options);
  Session session(*engine, options);
  const double score = ask_cases(session, *task, cases, nlohmann::ordered_json::object(), log,
                                 command.model.json, more);

  nlohmann::ordered_json line = run_fields(*engine, heads, options, &session);
  line["test"] = test;
  line.update(own);
  line["pattern"] = command.heads.pattern.empty() ? nlohmann::ordered_json(nullptr)
                                                  : nlohmann::ordered_json(command.heads.pattern);
  line["reversed"] = command.order.reversed;
  line["shuffled"] = command.order.shuffled ? nlohmann::ordered_json(*command.order.shuffled)
                                            : nlohmann::ordered_json(nullptr);
  line["seed"] = command.needle.seed;
  line["cases"] = cases.size();
  line["score"] = score;
  line["peak_bytes"] = peak_resident_memory();
  log.add(line);
  if (command.model.json) {
    print_json(line);
  } else {
    print(fmt::format("score {:.3f} of {} cases\n", score, cases.size()));
  }
}

void run_passkey(const NeedleCommand& command) {
  run(command, "passkey", nlohmann::ordered_json::object(),
      [&](const Engine& engine, const FillerText& filler) {
        return std::make_unique<PasskeyTask>(engine.tokenizer(), filler, command.needle.seed);
      });
}

void run_niah(const NeedleCommand& command) {
  run(
      command, "niah",
      {{"needles", command.niah.needles},
       {"ask_all", command.niah.ask_all},
       {"chat_template", command.niah.chat_template}},
      [&](const Engine& engine, const FillerText& filler) {
        return make_niah_task(command.niah, engine, filler, command.needle.seed);
      },
      [&](const NeedleOutcome& outcome, nlohmann::ordered_json& line) {
        if (command.niah.needles > 1) return;
        line["rouge1_f"] = rouge1(NiahTask::kNeedle, outcome.answers.front().text).f_measure;
      });
}

void add_options(CLI::App& command, NeedleCommand& options) {
  add_model_options(command, options.model);
  add_needle_options(command, options.needle);
  add_head_options(command, options.heads);
  add_gate_order_options(command, options.order);
  add_kv_options(command, options.kv);
  add_chunk_option(command, options.chunk);
}

}  // namespace

void add_eval_passkey(CLI::App& eval) {
  auto options = std::make_shared<NeedleCommand>();
  CLI::App& command = *eval.add_subcommand(
      "passkey", "whether a model finds a number hidden in a long text, by length and depth");
  add_options(command, *options);
  add_examples(command, {"sedpa eval passkey -m model.gguf --lengths 1000,4000 --depths 5",
                         "sedpa eval passkey -m model.gguf --lengths 8000 --pattern pattern "
                         "--sparsity 0.5 --json"});
  command.callback([options] { run_passkey(*options); });
}

void add_eval_niah(CLI::App& eval) {
  auto options = std::make_shared<NeedleCommand>();
  CLI::App& command = *eval.add_subcommand(
      "niah", "a needle in a haystack: the published sentence, or numbers of several cities");
  add_options(command, *options);
  add_niah_options(command, options->niah);
  add_examples(command, {"sedpa eval niah -m model.gguf --lengths 4000,16000 --depths 11 "
                         "--chat-template --out niah.jsonl",
                         "sedpa eval niah -m model.gguf --lengths 8000 --needles 8 --ask-all "
                         "--pattern pattern --sparsity 0.75"});
  command.callback([options] { run_niah(*options); });
}

}  // namespace sedpa::cli
