#include "sedpa/eval/niah.h"

#include <algorithm>
#include <set>

#include "sedpa/core/error.h"
#include "sedpa/engine/generate.h"
#include "tests/eval/needle_engine.h"

namespace sedpa {
namespace {

class Niah : public test::NeedleEngine {
 protected:
  // Document and question as text.
  std::string text(const NeedlePrompt& prompt, std::size_t question = 0) const {
    std::vector<std::int32_t> tokens = prompt.document;
    const auto& more = prompt.questions.at(question).tokens;
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokenizer().decode(tokens, /*render_special=*/true);
  }
  static int count(const std::string& text, std::string_view part) {
    int found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
      ++found;
    }
    return found;
  }
};

TEST_F(Niah, HidesThePublishedSentenceOnceAtTheDepthAskedFor) {
  const NiahTask task(tokenizer(), *filler_, {});
  for (const double depth : {0.0, 0.3, 0.5, 1.0}) {
    const NeedlePrompt prompt = task.prompt({.length = 3000, .depth = depth, .sample = 2});
    ASSERT_EQ(prompt.questions.size(), 1u);
    EXPECT_EQ(prompt.document.size() + prompt.questions[0].tokens.size(), 3000u);
    const std::string all = text(prompt);
    EXPECT_EQ(count(all, NiahTask::kNeedle), 1);
    EXPECT_EQ(count(all, "\n\n" + std::string(NiahTask::kNeedle) + "\n\n"), 1);
    EXPECT_TRUE(
        all.ends_with("what is the best thing to do in San Francisco?\n\n"
                      "Answer: The best thing to do in San Francisco is"));
    // A byte is a token here; it is moved to the next break at most.
    EXPECT_NEAR(static_cast<double>(all.find(NiahTask::kNeedle)) / 3000, depth, 0.12);
  }
}

TEST_F(Niah, ScoresByTheWordsOfTheAnswer) {
  const NiahTask task(tokenizer(), *filler_, {});
  const std::string expected =
      task.prompt({.length = 2000, .depth = 0.5, .sample = 0}).questions[0].expected;
  EXPECT_EQ(expected, "eat a sandwich and sit in Dolores Park on a sunny day");
  EXPECT_EQ(task.score(expected, " eat a sandwich and sit in Dolores Park on a sunny day."), 1);
  EXPECT_EQ(task.score(expected, "Sit in Dolores Park on a sunny day, eating a sandwich and more"),
            1);
  EXPECT_EQ(task.score(expected, " go home"), 0);
  EXPECT_DOUBLE_EQ(task.score(expected, " sit in the park"), 3.0 / 12);
}

TEST_F(Niah, PutsThePromptIntoAUsersTurn) {
  const NiahTask task(tokenizer(), *filler_,
                      {.chat = chat_template(tokenizer(), "the tiny model")});
  const NeedlePrompt prompt = task.prompt({.length = 3000, .depth = 0.5, .sample = 0});
  EXPECT_EQ(prompt.document.size() + prompt.questions[0].tokens.size(), 3000u);
  const std::string all = text(prompt);
  EXPECT_TRUE(all.starts_with("<|im_start|>user\nThis is a very long story book: <book> "));
  EXPECT_TRUE(all.ends_with("San Francisco?<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_EQ(prompt.document.front(), test::kTinyTurnStart);
}

TEST_F(Niah, HidesOneNumberAmongOthers) {
  const NiahTask task(tokenizer(), *filler_, {.needles = 6, .seed = 3});
  std::set<std::string> numbers;
  std::string others;  // the document without the number that is asked for
  for (const double depth : {0.0, 0.5, 1.0}) {
    const NeedlePrompt prompt = task.prompt({.length = 3000, .depth = depth, .sample = 0});
    ASSERT_EQ(prompt.questions.size(), 1u);
    const std::string all = text(prompt);
    EXPECT_EQ(count(all, "\n\nThe magic number of "), 6);
    const std::string& expected = prompt.questions[0].expected;
    EXPECT_EQ(expected.size(), 7u);
    EXPECT_EQ(count(all, expected), 1);
    // It belongs to the city that is asked for.
    const std::size_t ask = all.find("what is the magic number of ") + 28;
    const std::string city = all.substr(ask, all.find('?', ask) - ask);
    EXPECT_EQ(count(all, "The magic number of " + city + " is " + expected + "."), 1);
    EXPECT_TRUE(all.ends_with("Answer: The magic number of " + city + " is"));
    numbers.insert(expected);
    std::string rest = all;
    rest.erase(all.find("\n\nThe magic number of " + city),
               std::string("\n\nThe magic number of  is 1234567.\n\n").size() + city.size());
    if (!others.empty()) {
      EXPECT_EQ(rest, others);  // only that one moves
    }
    others = rest;
  }
  EXPECT_EQ(numbers.size(), 1u);
  EXPECT_EQ(task.score("1234567", " 1234567."), 1);
  EXPECT_EQ(task.score("1234567", " 12345678."), 0);
}

TEST_F(Niah, AsksForAll) {
  const NiahTask task(tokenizer(), *filler_, {.needles = 6, .ask_all = true});
  const NeedlePrompt prompt = task.prompt({.length = 3000, .depth = 0.5, .sample = 1});
  ASSERT_EQ(prompt.questions.size(), 6u);
  std::set<std::string> expected;
  std::size_t longest = 0;
  for (std::size_t q = 0; q < 6; ++q) {
    expected.insert(prompt.questions[q].expected);
    EXPECT_EQ(count(text(prompt, q), prompt.questions[q].expected), 1);
    longest = std::max(longest, prompt.questions[q].tokens.size());
  }
  EXPECT_EQ(expected.size(), 6u);
  EXPECT_EQ(prompt.document.size() + longest, 3000u);
}

TEST_F(Niah, SameSeedSamePromptAndSamplesDiffer) {
  const NiahTask task(tokenizer(), *filler_, {.needles = 3});
  const NeedleCase test{.length = 2000, .depth = 0.5, .sample = 0};
  EXPECT_EQ(task.prompt(test).document, task.prompt(test).document);
  NeedleCase other = test;
  other.sample = 1;
  EXPECT_NE(task.prompt(other).document, task.prompt(test).document);
  const NiahTask seeded(tokenizer(), *filler_, {.needles = 3, .seed = 2});
  EXPECT_NE(seeded.prompt(test).document, task.prompt(test).document);
}

TEST_F(Niah, SaysWhatDoesNotFit) {
  EXPECT_THROW(NiahTask(tokenizer(), *filler_, {.needles = 0}), Error);
  EXPECT_THROW(NiahTask(tokenizer(), *filler_, {.needles = 33}), Error);
  const NiahTask task(tokenizer(), *filler_, {});
  EXPECT_THROW((void)task.prompt({.length = 100, .depth = 0.5, .sample = 0}), Error);
  EXPECT_THROW((void)task.prompt({.length = 1 << 20, .depth = 0.5, .sample = 0}), Error);
  EXPECT_THROW((void)task.prompt({.length = 2000, .depth = 1.5, .sample = 0}), Error);
}

}  // namespace
}  // namespace sedpa
