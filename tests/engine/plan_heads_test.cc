#include "sedpa/engine/plan_heads.h"

#include <gtest/gtest.h>

#include "sedpa/core/log.h"
#include "sedpa/engine/engine.h"
#include "sedpa/format/attention_pattern.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

using test::expect_error;

class PlanHeads : public testing::Test {
 protected:
  PlanHeads() {
    const std::string path = folder_ / "tiny.gguf";
    test::write_tiny_model(path, {.layers = 3});
    engine_ = std::make_unique<Engine>(EngineOptions{.model = path});
    test::write_tiny_pattern(pattern_, 3, 2);
  }

  test::TempDir folder_;
  std::string pattern_ = folder_ / "pattern";
  std::unique_ptr<Engine> engine_;
};

TEST_F(PlanHeads, IsFullWithoutAPattern) {
  for (const std::optional<double> sparsity : {std::optional<double>(), std::optional(0.0)}) {
    const PlannedHeads heads = plan_heads(*engine_, {.sparsity = sparsity});
    EXPECT_FALSE(heads.streams());
    EXPECT_TRUE(heads.retrieval.full);
    EXPECT_EQ(heads.sparsity, 0);
  }
}

TEST_F(PlanHeads, StreamsHalfWithAPatternAlone) {
  const PlannedHeads heads = plan_heads(*engine_, {.pattern = pattern_});
  EXPECT_EQ(heads.sparsity, 0.5);
  EXPECT_EQ(heads.plan.streaming_heads(), 3);  // ceil(0.5 * 5) of 6
  EXPECT_EQ(heads.streaming, HeadClass::window(4, 0, 8));
}

TEST_F(PlanHeads, TakesTheUsersWindowInsteadOfThePatterns) {
  const PlannedHeads heads =
      plan_heads(*engine_, {.pattern = pattern_,
                            .sparsity = 1.0,
                            .sink = 2,
                            .recent = 16,
                            .retrieval_window = HeadClass::window(8, 16, 32)});
  EXPECT_EQ(heads.plan.streaming_heads(), 6);
  EXPECT_EQ(heads.plan.classes[kStreaming], HeadClass::window(2, 0, 16));
  EXPECT_EQ(heads.plan.classes[kRetrieval], HeadClass::window(8, 16, 32));
}

TEST_F(PlanHeads, SaysToIdentifyFirst) {
  expect_error([&] { (void)plan_heads(*engine_, {.sparsity = 0.5}); },
               {"0.5", "sedpa identify", "--pattern"});
}

TEST_F(PlanHeads, RefusesAPatternOfAnotherModelWithBothShapes) {
  const std::string other = folder_ / "other";
  test::write_tiny_pattern(other, 4, 5);
  expect_error([&] { (void)plan_heads(*engine_, {.pattern = other}); },
               {"other", "4 layers x 5", "3 x 2", "tiny.gguf"});
}

TEST_F(PlanHeads, RefusesSparsityBeyondItsRange) {
  for (const double sparsity : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    expect_error([&] { (void)plan_heads(*engine_, {.pattern = pattern_, .sparsity = sparsity}); },
                 {"sparsity", "0 to 1"});
  }
}

TEST_F(PlanHeads, SaysHowManyHighGatesAreCut) {
  std::vector<std::string> notes;
  set_log_sink([&](const std::string& line) { notes.push_back(line); });
  const std::string high = folder_ / "high";
  test::write_tiny_pattern(high, 3, 2);
  AttentionPattern pattern = load_attention_pattern(high);
  pattern.gates = {0.95, 0.2, 1.0, 0.1, 0.97, 0.99};
  save_attention_pattern(high, pattern);
  (void)plan_heads(*engine_, {.pattern = high, .sparsity = 0.3});
  EXPECT_TRUE(notes.empty());
  (void)plan_heads(*engine_, {.pattern = high, .sparsity = 0.8});
  set_log_sink(nullptr);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes.front().find("high: at sparsity 0.8 2 heads with gates above 0.9"),
            std::string::npos)
      << notes.front();
}

TEST_F(PlanHeads, DescribesThePlan) {
  const PlannedHeads heads = plan_heads(*engine_, {.pattern = pattern_});
  EXPECT_EQ(describe(heads.plan),
            "3 of 6 KV heads keep 4 first and 8 last tokens, the others keep everything");
  EXPECT_EQ(describe(engine_->full_plan()), "all heads keep everything");
}

}  // namespace
}  // namespace sedpa
