#include "cli/needle_runs.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/shipped_text.h"
#include "sedpa/engine/generate.h"
#include "sedpa/eval/niah.h"
#include "sedpa/format/json.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;

ordered_json case_line(const ordered_json& label, const NeedleCase& test) {
  ordered_json line = label;
  line["prompt_tokens"] = test.length;
  line["depth"] = test.depth;
  line["sample"] = test.sample;
  return line;
}

// One question's text stands by itself, several in a list.
template <class Part>
ordered_json one_or_all(const std::vector<NeedleAnswer>& answers, Part part) {
  if (answers.size() == 1) return part(answers.front());
  ordered_json all = ordered_json::array();
  for (const NeedleAnswer& answer : answers) all.push_back(part(answer));
  return all;
}

void show(const ordered_json& line, bool json) {
  if (json) {
    print_json(line);
    return;
  }
  const double score = line.value("score", 0.0);
  const auto text = [&](const char* key) {
    return line[key].is_string() ? line[key].get<std::string>() : json_text(line[key]);
  };
  print(fmt::format("{:>6} tokens, depth {:.2f}: {:.2f} {}{}\n", line.value("prompt_tokens", 0),
                    line.value("depth", 0.0), score, text("expected"),
                    score == 1 ? "" : fmt::format(", answered \"{}\"", text("text"))));
}

}  // namespace

std::vector<NeedleCase> NeedleOptions::cases(const NeedleTask& task) const {
  std::vector<NeedleCase> all = needle_cases(lengths, depths, samples);
  for (const NeedleCase& test : all) (void)task.prompt(test);
  return all;
}

std::int64_t NeedleOptions::context(const NeedleTask& task) const {
  return *std::max_element(lengths.begin(), lengths.end()) + task.answer_tokens();
}

FillerText NeedleOptions::filler(const Engine& engine) const {
  return FillerText::read(engine.tokenizer(), text_or_shipped(text));
}

void add_needle_options(CLI::App& command, NeedleOptions& options) {
  const std::string group = "Measurement";
  command.add_option("--lengths", options.lengths, "tokens of the prompts")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{64}, std::int64_t{1} << 30))
      ->capture_default_str()
      ->type_name("N,N,...")
      ->group(group);
  command.add_option("--depths", options.depths, "evenly spaced, from the start to the end")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--samples", options.samples, "texts of each length")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_option("--text", options.text,
                  "text to hide things in: a text file, a JSONL file, or a directory of them; "
                  "default: the book that ships")
      ->type_name("PATH")
      ->group(group);
  command.add_option("--seed", options.seed, "of texts and what is hidden")
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_option("--out", options.out,
                  "keep the results in a file too, as JSON lines; cases that are in it already, "
                  "with the same settings, are not asked again")
      ->type_name("FILE")
      ->group(group);
}

void add_niah_options(CLI::App& command, NiahTaskOptions& options) {
  const std::string group = "Measurement";
  command
      .add_option("--needles", options.needles,
                  "1: the published needle; more: so many cities' magic numbers, one of which is "
                  "asked for")
      ->check(CLI::Range(1, 32))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_flag("--ask-all", options.ask_all, "ask for every one of several needles")
      ->group(group);
  command
      .add_flag("--chat-template", options.chat_template,
                "put the prompt into a user's turn of the model's chat template")
      ->group(group);
}

std::unique_ptr<NeedleTask> make_niah_task(const NiahTaskOptions& options, const Engine& engine,
                                           const FillerText& filler, std::uint64_t seed) {
  if (options.ask_all && options.needles == 1) {
    throw UsageError("--ask-all needs several needles: --needles N");
  }
  NiahOptions niah{.needles = options.needles, .ask_all = options.ask_all, .seed = seed};
  if (options.chat_template) niah.chat = chat_template(engine.tokenizer(), engine.model_path());
  return std::make_unique<NiahTask>(engine.tokenizer(), filler, niah);
}

ordered_json needle_settings(const std::string& test, const Engine& engine,
                             const SessionOptions& session, const std::string& compute,
                             const FillerText& filler, std::uint64_t seed) {
  return {{"test", test},
          {"model_fingerprint", engine.fingerprint()},
          {"compute", compute},
          {"kv_dtype", std::string(name(session.kv))},
          {"head_plan", session.heads.fingerprint()},
          {"heads", describe(session.heads)},
          {"text_fingerprint", filler.fingerprint()},
          {"seed", seed}};
}

std::vector<std::string> case_keys() { return {"prompt_tokens", "depth", "sample"}; }

double ask_cases(Session& session, const NeedleTask& task, const std::vector<NeedleCase>& cases,
                 const ordered_json& label, CaseLog& log, bool json,
                 const std::function<void(const NeedleOutcome&, ordered_json&)>& more) {
  double sum = 0;
  std::vector<NeedleCase> left;
  for (const NeedleCase& test : cases) {
    const ordered_json* done = log.find(case_line(label, test));
    if (done == nullptr) {
      left.push_back(test);
    } else {
      sum += done->value("score", 0.0);
      show(*done, json);
    }
  }
  ProgressBar bar("asking");
  run_needles(
      session, task, left,
      {.on_case =
           [&](const NeedleOutcome& outcome) {
             using Answer = const NeedleAnswer&;
             ordered_json line = case_line(label, outcome.test);
             line["expected"] =
                 one_or_all(outcome.answers, [](Answer a) -> ordered_json { return a.expected; });
             line["text"] =
                 one_or_all(outcome.answers, [](Answer a) -> ordered_json { return a.text; });
             line["score"] = outcome.score;
             if (more) more(outcome, line);
             line["read_tokens"] = outcome.read_tokens;
             line["prefill_seconds"] = outcome.prefill_seconds;
             line["decode_seconds"] = outcome.decode_seconds;
             sum += outcome.score;
             log.add(line);
             bar.clear();
             show(line, json);
           },
       .on_tokens =
           [&](std::int64_t done, std::int64_t total) {
             bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
           }});
  return sum / static_cast<double>(cases.size());
}

}  // namespace sedpa::cli
