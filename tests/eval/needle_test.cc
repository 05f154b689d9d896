// Prompts that share their beginnings must give what each of them gives alone, to the bit.
#include "sedpa/eval/needle.h"

#include "sedpa/core/error.h"
#include "sedpa/eval/niah.h"
#include "sedpa/eval/passkey.h"
#include "tests/eval/needle_engine.h"

namespace sedpa {
namespace {

using Needles = test::NeedleEngine;

TEST(NeedleCases, CoverLengthsSamplesAndDepths) {
  const std::vector<NeedleCase> cases = needle_cases({1000, 4000}, 3, 2);
  ASSERT_EQ(cases.size(), 12u);
  EXPECT_EQ(cases[0], (NeedleCase{.length = 1000, .depth = 0, .sample = 0}));
  EXPECT_EQ(cases[1], (NeedleCase{.length = 1000, .depth = 0.5, .sample = 0}));
  EXPECT_EQ(cases[2], (NeedleCase{.length = 1000, .depth = 1, .sample = 0}));
  EXPECT_EQ(cases[3], (NeedleCase{.length = 1000, .depth = 0, .sample = 1}));
  EXPECT_EQ(cases[6], (NeedleCase{.length = 4000, .depth = 0, .sample = 0}));
  EXPECT_EQ(needle_cases({1000}, 1, 1)[0].depth, 0.5);
  EXPECT_THROW((void)needle_cases({}, 3, 2), Error);
  EXPECT_THROW((void)needle_cases({1000}, 0, 2), Error);
  EXPECT_THROW((void)needle_cases({1000}, 3, 0), Error);
}

struct Asked {
  std::vector<NeedleOutcome> outcomes;
  std::vector<std::vector<float>> logits;  // of the last token of each case: they tell every bit
  std::int64_t read = 0;
};

Asked ask(Session& session, const NeedleTask& task, std::span<const NeedleCase> cases) {
  Asked asked;
  std::int64_t last = 0;
  run_needles(session, task, cases,
              {.on_case =
                   [&](const NeedleOutcome& outcome) {
                     const auto logits = session.logits();
                     asked.logits.emplace_back(logits.begin(), logits.end());
                     asked.outcomes.push_back(outcome);
                     asked.read += outcome.read_tokens;
                   },
               .on_tokens =
                   [&](std::int64_t done, std::int64_t total) {
                     EXPECT_LE(done, total);
                     last = done;
                   }});
  EXPECT_GT(last, 0);
  return asked;
}

TEST_F(Needles, SharedBeginningsChangeNoBit) {
  const PasskeyTask passkey(tokenizer(), *filler_, 1);
  const NiahTask several(tokenizer(), *filler_, {.needles = 3, .ask_all = true});
  const std::vector<double> gates = {0, 5, 4, 3, 2, 1};
  const auto plan = [&](HeadClass retrieval) {
    return HeadPlan::from_gates(gates, 3, 2, 0.5, retrieval, HeadClass::window(16, 0, 50));
  };
  const std::pair<const NeedleTask*, HeadPlan> runs[] = {
      {&passkey, engine_->full_plan()},
      {&passkey, plan(HeadClass{})},
      {&passkey, plan(HeadClass::window(8, 32, 64))},
      {&several, plan(HeadClass{})},
  };
  std::vector<NeedleCase> cases = needle_cases({1000}, 4, 1);
  for (const NeedleCase& other : needle_cases({900}, 1, 2)) cases.push_back(other);
  for (const auto& [task, heads] : runs) {
    const SessionOptions options{
        .context = 1000 + task->answer_tokens(), .heads = heads, .kv = KvDtype::f16, .chunk = 32};
    Session together(*engine_, options);
    Session alone(*engine_, options);
    const Asked shared = ask(together, *task, cases);
    ASSERT_EQ(shared.outcomes.size(), cases.size());
    std::int64_t read = 0;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const Asked one = ask(alone, *task, {&cases[i], 1});
      EXPECT_EQ(shared.outcomes[i].test, cases[i]);
      EXPECT_EQ(shared.logits[i], one.logits[0]) << i;
      ASSERT_EQ(shared.outcomes[i].answers.size(), one.outcomes[0].answers.size());
      for (std::size_t a = 0; a < one.outcomes[0].answers.size(); ++a) {
        EXPECT_EQ(shared.outcomes[i].answers[a].text, one.outcomes[0].answers[a].text);
      }
      read += one.read;
    }
    // Depths 0, 1/3, 2/3 and 1 share nothing, nothing, 1/3 and 2/3 of the text.
    EXPECT_LT(shared.read, read - 500);
  }
}

// The questions of one document are asked of one reading.
TEST_F(Needles, QuestionsShareTheirDocument) {
  const NiahTask several(tokenizer(), *filler_, {.needles = 5, .ask_all = true});
  Session session(*engine_, {.context = 2000, .heads = engine_->full_plan(), .chunk = 32});
  const NeedleCase test{.length = 1900, .depth = 0.5, .sample = 0};
  const Asked asked = ask(session, several, {&test, 1});
  ASSERT_EQ(asked.outcomes.size(), 1u);
  EXPECT_EQ(asked.outcomes[0].answers.size(), 5u);
  const NeedlePrompt prompt = several.prompt(test);
  EXPECT_LT(asked.read, std::ssize(prompt.document) + 5 * (200 + 32));
}

TEST_F(Needles, ScoresAreTheMeanOfTheAnswers) {
  // Scores by the question, whatever the model says.
  class Counting final : public NeedleTask {
   public:
    [[nodiscard]] NeedlePrompt prompt(const NeedleCase&) const override {
      NeedlePrompt prompt{.document = {65, 66, 67}, .questions = {}};
      for (const char* expected : {"0.25", "1", "0.5"}) {
        prompt.questions.push_back({.tokens = {68}, .expected = expected});
      }
      return prompt;
    }
    [[nodiscard]] double score(const std::string& expected, const std::string&) const override {
      return std::stod(expected);
    }
    [[nodiscard]] std::int64_t answer_tokens() const override { return 2; }
  };
  Session session(*engine_, {.context = 16, .heads = engine_->full_plan()});
  const NeedleCase test{.length = 4, .depth = 0, .sample = 0};
  const Asked asked = ask(session, Counting(), {&test, 1});
  EXPECT_DOUBLE_EQ(asked.outcomes.at(0).score, 1.75 / 3);
}

}  // namespace
}  // namespace sedpa
