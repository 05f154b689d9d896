#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/case_log.h"
#include "cli/common.h"
#include "sedpa/eval/needle.h"
#include "sedpa/identify/filler_text.h"

// What the needle tests have in common: passkey, niah, and masking, which runs either of them.
namespace sedpa::cli {

/// --lengths --depths --samples --text --seed --out
struct NeedleOptions {
  std::vector<std::int64_t> lengths = {1000, 4000};
  std::int64_t depths = 10;
  std::int64_t samples = 1;
  std::string text;
  std::uint64_t seed = 1;
  std::string out;

  /// All cases, after each prompt has been made once: a length that does not work is found before
  /// the work starts. Throws Error.
  [[nodiscard]] std::vector<NeedleCase> cases(const NeedleTask& task) const;
  /// Tokens that a session needs for the longest case of a task and its answer.
  [[nodiscard]] std::int64_t context(const NeedleTask& task) const;
  /// The text that --text names, or that ships.
  [[nodiscard]] FillerText filler(const Engine& engine) const;
};

void add_needle_options(CLI::App& command, NeedleOptions& options);

/// --needles --ask-all --chat-template
struct NiahTaskOptions {
  int needles = 1;
  bool ask_all = false;
  bool chat_template = false;
};

void add_niah_options(CLI::App& command, NiahTaskOptions& options);
[[nodiscard]] std::unique_ptr<NeedleTask> make_niah_task(const NiahTaskOptions& options,
                                                         const Engine& engine,
                                                         const FillerText& filler,
                                                         std::uint64_t seed);

/// The settings of a run that a case's result depends on: for CaseLog.
[[nodiscard]] nlohmann::ordered_json needle_settings(const std::string& test, const Engine& engine,
                                                     const SessionOptions& session,
                                                     const std::string& compute,
                                                     const FillerText& filler, std::uint64_t seed);

/// Asks the cases that are not in the log yet and prints a line for each, those first that are:
/// for people, or JSON. `label` are fields that stand in front of a case's own and belong to its
/// key, `more` adds others to the end of a line. Returns the mean score of all cases.
[[nodiscard]] double ask_cases(
    Session& session, const NeedleTask& task, const std::vector<NeedleCase>& cases,
    const nlohmann::ordered_json& label, CaseLog& log, bool json,
    const std::function<void(const NeedleOutcome&, nlohmann::ordered_json&)>& more = {});

/// The fields that tell the cases of ask_cases apart, besides a label's.
[[nodiscard]] std::vector<std::string> case_keys();

}  // namespace sedpa::cli
