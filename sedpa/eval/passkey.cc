#include "sedpa/eval/passkey.h"

#include <algorithm>

#include "sedpa/core/fail.h"
#include "sedpa/engine/engine.h"
#include "sedpa/engine/generate.h"

namespace sedpa {
namespace {

constexpr int kDigits = 5;
constexpr std::int64_t kAnswerTokens = 16;  // a digit is a token in many models

// Spreads seed and case over the generator's seeds (SplitMix64's finish, Steele et al. 2014).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<PasskeyCase> passkey_cases(const std::vector<std::int64_t>& lengths,
                                       std::int64_t depths, std::int64_t samples) {
  if (lengths.empty() || depths < 1 || samples < 1) {
    fail("{} lengths, {} depths and {} samples, expected at least 1 of each", lengths.size(),
         depths, samples);
  }
  std::vector<PasskeyCase> cases;
  for (const std::int64_t length : lengths) {
    for (std::int64_t d = 0; d < depths; ++d) {
      const double depth =
          depths == 1 ? 0.5 : static_cast<double>(d) / static_cast<double>(depths - 1);
      for (std::int64_t s = 0; s < samples; ++s) {
        cases.push_back({.length = length, .depth = depth, .sample = s});
      }
    }
  }
  return cases;
}

std::int64_t passkey_context(std::int64_t length) { return length + kAnswerTokens; }

PasskeyOutcome run_passkey(Session& session, const Tokenizer& tokenizer, const FillerText& filler,
                           const PasskeyCase& test, std::uint64_t seed,
                           const std::function<void(std::int64_t, std::int64_t)>& progress) {
  std::uint64_t mixed = mix(seed);
  mixed = mix(mixed ^ static_cast<std::uint64_t>(test.length));
  mixed = mix(mixed ^ static_cast<std::uint64_t>(test.depth * 1e6));
  mixed = mix(mixed ^ static_cast<std::uint64_t>(test.sample));
  Random random(mixed);
  const PasskeyQuestion question = make_passkey_question(
      tokenizer, filler, {.tokens = test.length, .depth = test.depth, .digits = kDigits}, random);
  session.clear();
  const GenerateResult result =
      generate(session, question.tokens,
               {.max_tokens = kAnswerTokens, .sampler = {.temperature = 0}, .stops = {"\n"}},
               {.on_text = {}, .on_prefill = progress});
  return {.expected = question.key,
          .text = result.text,
          .right = answers(result.text, question.key),
          .prefill_seconds = result.prefill_seconds,
          .decode_seconds = result.decode_seconds};
}

bool answers(const std::string& text, const std::string& key) {
  constexpr std::string_view kDigitsOfText = "0123456789";
  const std::size_t begin = text.find_first_of(kDigitsOfText);
  if (begin == std::string::npos) return false;
  const std::size_t end = std::min(text.find_first_not_of(kDigitsOfText, begin), text.size());
  return std::string_view(text).substr(begin, end - begin) == key;
}

}  // namespace sedpa
