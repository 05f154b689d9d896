#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/engine/session.h"
#include "sedpa/identify/passkey_data.h"

namespace sedpa {

struct PasskeyCase {
  std::int64_t length = 0;  // tokens of the prompt
  double depth = 0;         // in [0, 1]
  std::int64_t sample = 0;
};

struct PasskeyOutcome {
  std::string expected;
  std::string text;  // what the model answered
  bool right = false;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

/// All lengths x `depths` evenly spaced depths x `samples`. One depth is the middle.
[[nodiscard]] std::vector<PasskeyCase> passkey_cases(const std::vector<std::int64_t>& lengths,
                                                     std::int64_t depths, std::int64_t samples);

/// Tokens that a session needs for a prompt of `length`: the prompt and its answer.
[[nodiscard]] std::int64_t passkey_context(std::int64_t length);

/// Asks one question, greedily. A case's text and key depend on the seed and the case alone, so
/// that runs with other settings get the same questions. Clears the session first.
PasskeyOutcome run_passkey(
    Session& session, const Tokenizer& tokenizer, const FillerText& filler, const PasskeyCase& test,
    std::uint64_t seed,
    const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

/// Whether the first run of digits in the answer is the key.
[[nodiscard]] bool answers(const std::string& text, const std::string& key);

}  // namespace sedpa
