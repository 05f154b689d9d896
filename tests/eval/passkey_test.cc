#include "sedpa/eval/passkey.h"

#include "tests/eval/needle_engine.h"

namespace sedpa {
namespace {

using Passkey = test::NeedleEngine;

TEST(PasskeyAnswer, TheFirstNumberIsTheAnswer) {
  EXPECT_TRUE(answers(" 48213. Remember it.", "48213"));
  EXPECT_TRUE(answers("48213", "48213"));
  EXPECT_TRUE(answers(" the number 48213", "48213"));
  EXPECT_FALSE(answers(" 482131", "48213"));
  EXPECT_FALSE(answers(" 4821", "48213"));
  EXPECT_FALSE(answers(" 11111 or 48213", "48213"));
  EXPECT_FALSE(answers(" I do not know", "48213"));
  EXPECT_FALSE(answers("", "48213"));
}

TEST_F(Passkey, ACaseIsTheSameAlwaysAndDepthsHaveOneText) {
  const PasskeyTask task(tokenizer(), *filler_, 1);
  const auto ask = [&](double depth, std::int64_t sample) {
    return task.prompt({.length = 1200, .depth = depth, .sample = sample});
  };
  const NeedlePrompt prompt = ask(0.5, 0);
  ASSERT_EQ(prompt.questions.size(), 1u);
  EXPECT_EQ(prompt.document.size() + prompt.questions[0].tokens.size(), 1200u);
  EXPECT_EQ(prompt.questions[0].expected.size(), 5u);
  EXPECT_EQ(tokenizer().decode(prompt.questions[0].tokens),
            "\n\nWhat is the pass key? The pass key is");
  EXPECT_EQ(ask(0.5, 0).document, prompt.document);
  EXPECT_NE(ask(0.5, 1).questions[0].expected, prompt.questions[0].expected);
  EXPECT_NE(PasskeyTask(tokenizer(), *filler_, 2)
                .prompt({.length = 1200, .depth = 0.5, .sample = 0})
                .questions[0]
                .expected,
            prompt.questions[0].expected);
  // Another key at another depth, and the same text up to the first of them.
  const NeedlePrompt late = ask(1, 0);
  EXPECT_NE(late.questions[0].expected, prompt.questions[0].expected);
  const auto parts = std::mismatch(late.document.begin(), late.document.end(),
                                   prompt.document.begin(), prompt.document.end());
  EXPECT_GT(parts.first - late.document.begin(), 450);
}

}  // namespace
}  // namespace sedpa
