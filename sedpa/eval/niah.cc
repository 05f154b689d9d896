#include "sedpa/eval/niah.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "sedpa/core/fail.h"
#include "sedpa/engine/generate.h"
#include "sedpa/engine/prompt_tokens.h"
#include "sedpa/eval/passkey.h"
#include "sedpa/eval/rouge.h"

namespace sedpa {
namespace {

constexpr std::string_view kDocumentBegin = "This is a very long story book: <book> ";
constexpr std::string_view kDocumentEnd =
    " </book>.\n\nQuestion: Based on the content of the book, ";
constexpr std::string_view kAnswer = "\n\nAnswer: ";

constexpr std::string_view kQuestion = "what is the best thing to do in San Francisco?";
constexpr std::string_view kAnswerBegin = "The best thing to do in San Francisco is";
constexpr std::string_view kExpected = "eat a sandwich and sit in Dolores Park on a sunny day";

constexpr std::array kCities = {
    "Lisbon",   "Oslo",   "Cairo",    "Lima",    "Vienna", "Dublin",   "Nairobi", "Havana",
    "Athens",   "Prague", "Jakarta",  "Quito",   "Madrid", "Helsinki", "Manila",  "Bogota",
    "Warsaw",   "Tunis",  "Santiago", "Hanoi",   "Zurich", "Ankara",   "Dakar",   "Toronto",
    "Brussels", "Riga",   "Sydney",   "Caracas", "Geneva", "Tokyo",    "Accra",   "Chicago"};

constexpr int kNeedleDigits = 7;
constexpr std::int64_t kNeedleTokens = 50;

using Tokens = std::vector<std::int32_t>;

void append(Tokens& tokens, std::span<const std::int32_t> more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

std::uint64_t bits(std::int64_t number) { return static_cast<std::uint64_t>(number); }

std::string random_number(Random& random) {
  std::string digits;
  for (int i = 0; i < kNeedleDigits; ++i) {
    digits += static_cast<char>('0' + (i == 0 ? 1 + random.below(9) : random.below(10)));
  }
  return digits;
}

// A user's turn cut where its content stands.
struct Turn {
  std::string before;
  std::string after;
};

Turn cut_turn(const ChatTemplate& chat) {
  constexpr std::string_view kContent = "[the content of the turn]";
  const ChatMessage message{.role = "user", .content = std::string(kContent)};
  const std::string all = render_chat(chat, {&message, 1}, /*add_generation_prompt=*/true);
  const std::size_t at = all.find(kContent);
  if (at == std::string::npos) fail("the chat template leaves out what the user says");
  return {.before = all.substr(0, at), .after = all.substr(at + kContent.size())};
}

}  // namespace

NiahTask::NiahTask(const Tokenizer& tokenizer, const FillerText& filler, NiahOptions options)
    : tokenizer_(tokenizer), filler_(filler), options_(std::move(options)) {
  if (options_.needles < 1 || options_.needles > std::ssize(kCities)) {
    fail("{} needles, expected 1 to {}", options_.needles, kCities.size());
  }
  if (options_.chat) {
    const Turn turn = cut_turn(*options_.chat);
    head_ = tokenizer.encode(turn.before + std::string(kDocumentBegin), /*add_special=*/false,
                             /*parse_special=*/true);
    tail_ = turn.after;
  } else {
    if (tokenizer.add_bos()) head_.push_back(tokenizer.bos());
    append(head_, tokenizer.encode(kDocumentBegin, false, false));
  }
}

std::vector<std::int32_t> NiahTask::ask(std::string_view question,
                                        std::string_view answer_begin) const {
  std::string text = std::string(kDocumentEnd).append(question);
  if (options_.chat) {
    text += tail_;
  } else {
    text.append(kAnswer).append(answer_begin);
  }
  return encode_continuation(tokenizer_, text);
}

std::vector<NiahTask::Needle> NiahTask::needles(const NeedleCase& test) const {
  const auto paragraph = [&](std::string_view sentence) {
    return encode_continuation(tokenizer_, fmt::format("\n\n{}\n\n", sentence));
  };
  if (options_.needles == 1) {
    return {
        {.tokens = paragraph(kNeedle),
         .depth = test.depth,
         .question = {.tokens = ask(kQuestion, kAnswerBegin), .expected = std::string(kExpected)}}};
  }
  Random random(mix_seed({options_.seed, bits(test.length), bits(test.sample), 1}));
  std::vector<std::string> cities(kCities.begin(), kCities.end());
  random.shuffle(cities);
  std::vector<Needle> needles;
  for (int i = 0; i < options_.needles; ++i) {
    const std::string& city = cities[static_cast<std::size_t>(i)];
    const std::string number = random_number(random);
    const std::string begin = fmt::format("The magic number of {} is", city);
    constexpr std::int64_t kSteps = 1000;
    const double depth = static_cast<double>(random.below(kSteps + 1)) / kSteps;
    needles.push_back(
        {.tokens = paragraph(fmt::format("{} {}.", begin, number)),
         .depth = i == 0 ? test.depth : depth,
         .question = {.tokens = ask(fmt::format("what is the magic number of {}?", city), begin),
                      .expected = number}});
  }
  return needles;
}

NeedlePrompt NiahTask::prompt(const NeedleCase& test) const {
  if (!(test.depth >= 0 && test.depth <= 1)) {
    fail("depth is {}, expected a number from 0 to 1", test.depth);
  }
  std::vector<Needle> hidden = needles(test);
  NeedlePrompt prompt;
  std::int64_t needed = std::ssize(head_);
  std::int64_t longest_question = 0;
  for (const Needle& needle : hidden) {
    needed += std::ssize(needle.tokens);
    longest_question = std::max(longest_question, std::ssize(needle.question.tokens));
    if (prompt.questions.empty() || options_.ask_all) prompt.questions.push_back(needle.question);
  }
  const std::int64_t count = filler_count(test.length, needed + longest_question);
  Random passage(mix_seed({options_.seed, bits(test.length), bits(test.sample)}));
  const std::int64_t start = filler_.random_start(count, passage);
  for (Needle& needle : hidden) {
    const auto wanted = std::llround(needle.depth * static_cast<double>(count));
    needle.place = filler_.nearest_break(start + wanted, start, start + count);
  }
  std::stable_sort(hidden.begin(), hidden.end(),
                   [](const Needle& a, const Needle& b) { return a.place < b.place; });
  prompt.document = head_;
  std::int64_t at = start;
  for (const Needle& needle : hidden) {
    append(prompt.document, filler_.tokens(at, needle.place - at));
    append(prompt.document, needle.tokens);
    at = needle.place;
  }
  append(prompt.document, filler_.tokens(at, start + count - at));
  return prompt;
}

double NiahTask::score(const std::string& expected, const std::string& answer) const {
  if (options_.needles == 1) return rouge1(expected, answer).recall;
  return answers(answer, expected) ? 1 : 0;
}

std::int64_t NiahTask::answer_tokens() const { return kNeedleTokens; }

}  // namespace sedpa
