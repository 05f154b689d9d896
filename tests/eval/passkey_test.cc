#include "sedpa/eval/passkey.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "sedpa/core/error.h"
#include "sedpa/engine/engine.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

TEST(Passkey, CasesCoverLengthsDepthsAndSamples) {
  const std::vector<PasskeyCase> cases = passkey_cases({1000, 4000}, 3, 2);
  ASSERT_EQ(cases.size(), 12u);
  EXPECT_EQ(cases[0].length, 1000);
  EXPECT_EQ(cases[0].depth, 0.0);
  EXPECT_EQ(cases[1].sample, 1);
  EXPECT_EQ(cases[2].depth, 0.5);
  EXPECT_EQ(cases[4].depth, 1.0);
  EXPECT_EQ(cases[6].length, 4000);
  EXPECT_EQ(passkey_cases({1000}, 1, 1)[0].depth, 0.5);
  EXPECT_THROW((void)passkey_cases({}, 3, 2), Error);
  EXPECT_THROW((void)passkey_cases({1000}, 0, 2), Error);
  EXPECT_THROW((void)passkey_cases({1000}, 3, 0), Error);
}

TEST(Passkey, TheFirstNumberIsTheAnswer) {
  EXPECT_TRUE(answers(" 48213. Remember it.", "48213"));
  EXPECT_TRUE(answers("48213", "48213"));
  EXPECT_TRUE(answers(" the number 48213", "48213"));
  EXPECT_FALSE(answers(" 482131", "48213"));
  EXPECT_FALSE(answers(" 4821", "48213"));
  EXPECT_FALSE(answers(" 11111 or 48213", "48213"));
  EXPECT_FALSE(answers(" I do not know", "48213"));
  EXPECT_FALSE(answers("", "48213"));
}

TEST(Passkey, ACaseAsksTheSameWhateverRanBeforeIt) {
  const std::string path = testing::TempDir() + "sedpa_passkey_model.gguf";
  test::write_tiny_model(path, {.context = 2048});
  EngineOptions options;
  options.model = path;
  Engine engine(options);
  engine.load();
  std::string text;
  for (int i = 0; i < 200; ++i) text += "The snow fell all night, and nobody came.\n\n";
  const FillerText filler(engine.tokenizer(), text, "snow");
  Session session(engine, {.context = passkey_context(1000), .heads = engine.full_plan()});
  const std::vector<PasskeyCase> cases = passkey_cases({600, 1000}, 2, 2);
  std::vector<PasskeyOutcome> outcomes;
  for (const PasskeyCase& test : cases) {
    outcomes.push_back(run_passkey(session, engine.tokenizer(), filler, test, 1));
    EXPECT_EQ(outcomes.back().expected.size(), 5u);
    EXPECT_EQ(outcomes.back().right, answers(outcomes.back().text, outcomes.back().expected));
  }
  const PasskeyOutcome again = run_passkey(session, engine.tokenizer(), filler, cases[3], 1);
  EXPECT_EQ(again.expected, outcomes[3].expected);
  EXPECT_EQ(again.text, outcomes[3].text);
  EXPECT_NE(outcomes[2].expected, outcomes[3].expected);
  EXPECT_NE(run_passkey(session, engine.tokenizer(), filler, cases[3], 2).expected,
            outcomes[3].expected);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace sedpa
