#include "sedpa/eval/passkey.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "sedpa/identify/passkey_data.h"

namespace sedpa {
namespace {

constexpr int kPasskeyDigits = 5;
constexpr std::int64_t kPasskeyTokens = 16;  // a digit is a token in many models

}  // namespace

NeedlePrompt PasskeyTask::prompt(const NeedleCase& test) const {
  const std::uint64_t text = mix_seed(
      {seed_, static_cast<std::uint64_t>(test.length), static_cast<std::uint64_t>(test.sample)});
  Random passage(text);
  Random digits(mix_seed({text, std::bit_cast<std::uint64_t>(test.depth)}));
  PasskeyQuestion question = make_passkey_question(
      tokenizer_, filler_, {.tokens = test.length, .depth = test.depth, .digits = kPasskeyDigits},
      passage, digits);
  const auto asked = question.tokens.begin() + question.asked;
  return {.document = {question.tokens.begin(), asked},
          .questions = {{.tokens = {asked, question.tokens.end()}, .expected = question.key}}};
}

double PasskeyTask::score(const std::string& expected, const std::string& answer) const {
  return answers(answer, expected) ? 1 : 0;
}

std::int64_t PasskeyTask::answer_tokens() const { return kPasskeyTokens; }

bool answers(const std::string& text, const std::string& key) {
  constexpr std::string_view kDigitsOfText = "0123456789";
  const std::size_t begin = text.find_first_of(kDigitsOfText);
  if (begin == std::string::npos) return false;
  const std::size_t end = std::min(text.find_first_not_of(kDigitsOfText, begin), text.size());
  return std::string_view(text).substr(begin, end - begin) == key;
}

}  // namespace sedpa
