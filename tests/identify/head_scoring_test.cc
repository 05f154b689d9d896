#include "sedpa/identify/head_scoring.h"

#include <gtest/gtest.h>

namespace sedpa {
namespace {

TEST(HeadScoring, GatesKeepTheOrderAndTheMedianStandsAtOneHalf) {
  const std::vector<double> scores = {0.3, 0.0, 2.5, 0.1, 0.02, 0.7, 0.11};
  const std::vector<double> gates = gates_from_scores(scores);
  ASSERT_EQ(gates.size(), scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    EXPECT_GE(gates[i], 0);
    EXPECT_LE(gates[i], 1);
    for (std::size_t j = 0; j < scores.size(); ++j) {
      EXPECT_EQ(scores[i] < scores[j], gates[i] < gates[j]);
    }
  }
  EXPECT_DOUBLE_EQ(gates[6], 0.5);  // 0.11 is the median
}

TEST(HeadScoring, GatesOfHeadsThatLoseNothingAreZero) {
  EXPECT_EQ(gates_from_scores({0, 0, 0}), (std::vector<double>{0, 0, 0}));
  EXPECT_TRUE(gates_from_scores({}).empty());
  // A median of zero still tells the others apart.
  const std::vector<double> gates = gates_from_scores({0, 0, 0, 0.2, 0.1});
  EXPECT_LT(gates[0], gates[4]);
  EXPECT_LT(gates[4], gates[3]);
  EXPECT_LE(gates[3], 1);
}

}  // namespace
}  // namespace sedpa
