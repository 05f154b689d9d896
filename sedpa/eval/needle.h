#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sedpa/engine/session.h"

// Tests that hide something in a long text and ask for it. What is hidden and how an answer counts
// is a NeedleTask's business (passkey.h, niah.h); the cases and how they are read are here.
namespace sedpa {

struct NeedleCase {
  std::int64_t length = 0;  // tokens of the longest prompt, its question included
  double depth = 0;         // in [0, 1]: share of the text that stands before the needle
  std::int64_t sample = 0;  // cases of one length and sample have the same text around the needle

  friend bool operator==(const NeedleCase&, const NeedleCase&) = default;
};

/// All lengths x samples x `depths` evenly spaced depths from 0 to 1. One depth is the middle.
/// Throws Error when there is none of one.
[[nodiscard]] std::vector<NeedleCase> needle_cases(const std::vector<std::int64_t>& lengths,
                                                   std::int64_t depths, std::int64_t samples);

struct NeedleQuestion {
  std::vector<std::int32_t> tokens;  // behind the document
  std::string expected;
};

/// A document, and the questions about it: each is asked behind the document alone.
struct NeedlePrompt {
  std::vector<std::int32_t> document;
  std::vector<NeedleQuestion> questions;
};

class NeedleTask {
 public:
  virtual ~NeedleTask() = default;
  /// The same for the same case. Throws Error when the length does not work.
  [[nodiscard]] virtual NeedlePrompt prompt(const NeedleCase& test) const = 0;
  /// In [0, 1].
  [[nodiscard]] virtual double score(const std::string& expected,
                                     const std::string& answer) const = 0;
  /// The longest answer. It also ends where the model ends it, or its line.
  [[nodiscard]] virtual std::int64_t answer_tokens() const = 0;
};

struct NeedleAnswer {
  std::string expected;
  std::string text;  // what the model said
  double score = 0;
};

struct NeedleOutcome {
  NeedleCase test;
  std::vector<NeedleAnswer> answers;  // [questions]
  double score = 0;                   // mean of the answers'
  std::int64_t read_tokens = 0;       // what was not taken up from the case before
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

struct NeedleCallbacks {
  /// A case is done.
  std::function<void(const NeedleOutcome& outcome)> on_case = {};
  /// Prompt tokens that have been read or taken up, of those of all cases. May be empty.
  std::function<void(std::int64_t done, std::int64_t total)> on_tokens = {};
};

/// Asks all questions, greedily. Prompts that follow each other share what they have in common, in
/// whole chunks: the session is marked there and taken back to the mark, so that every number is
/// the one that reading each prompt from its start would give, to the bit. Of ten cases of one
/// length and sample in the order of their depths, 0.4 is shared. The session's context must have
/// room for the longest case and its answer.
void run_needles(Session& session, const NeedleTask& task, std::span<const NeedleCase> cases,
                 const NeedleCallbacks& callbacks);

}  // namespace sedpa
