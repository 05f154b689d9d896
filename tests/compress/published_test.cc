// The published rule on layers whose ranks can be told by hand.
#include "sedpa/compress/published.h"

#include <gtest/gtest.h>

#include "sedpa/core/error.h"

namespace sedpa {
namespace {

constexpr std::int64_t kWidth = 64;

/// Eight layers of four KV heads; how many retrieve.
HeadPlan plan(const std::vector<std::int32_t>& retrieval) {
  HeadPlan heads = HeadPlan::uniform(static_cast<std::int32_t>(retrieval.size()), 4, {});
  for (std::size_t i = 0; i < retrieval.size(); ++i) heads.layers[i].retrieval = retrieval[i];
  return heads;
}

/// Square projections whose loss falls by halves: 1/2, 1/4, ... at ranks 4, 8, ...
std::vector<RankChoices> halving(std::size_t layers) {
  RankChoices matrix{.rows = kWidth, .cols = kWidth, .ranks = {}, .losses = {}};
  double loss = 1;
  for (std::int64_t rank = 4; rank * 128 < 4096; rank += 4) {
    matrix.ranks.push_back(rank);
    matrix.losses.push_back(loss /= 2);
  }
  return std::vector<RankChoices>(4 * layers, matrix);
}

TEST(PublishedRanks, KnowTheExceptions) {
  const auto choices = halving(8);
  //                 first quarter | half or more | some | none
  const auto found = published_ranks(choices, plan({0, 0, 2, 4, 1, 0, 3, 1}), kWidth);
  const std::int64_t some = 24;  // 1/64 <= 0.02
  const std::int64_t none = 20;  // 1/32 <= 0.05
  const std::vector<std::int64_t> expected = {0, 0, 0, 0, some, none, 0, some};
  std::int64_t numbers = 0;
  for (std::size_t layer = 0; layer < 8; ++layer) {
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(found.ranks[4 * layer + i], expected[layer]) << layer;
      numbers += expected[layer] == 0 ? kWidth * kWidth : expected[layer] * 2 * kWidth;
    }
  }
  EXPECT_EQ(found.numbers, numbers);
}

TEST(PublishedRanks, KnowTheFloorAndWhatWouldBeNoSmaller) {
  auto choices = halving(8);
  for (double& loss : choices[4 * 4].losses) loss = 0.001;    // rank 4 would do: a quarter is 16
  for (double& loss : choices[4 * 4 + 1].losses) loss = 0.5;  // none does
  const auto found = published_ranks(choices, plan({0, 0, 0, 0, 1, 0, 0, 0}), kWidth);
  EXPECT_EQ(found.ranks[4 * 4], 16);
  EXPECT_EQ(found.ranks[4 * 4 + 1], 0);
}

TEST(PublishedRanks, ScaleToABudgetWithoutExceptions) {
  const auto choices = halving(8);
  const HeadPlan heads = plan({4, 4, 4, 4, 0, 0, 0, 0});
  const std::int64_t whole = 32 * kWidth * kWidth;
  std::int64_t before = whole + 1;
  for (const double share : {0.95, 0.8, 0.5, 0.2}) {
    const auto budget = static_cast<std::int64_t>(share * static_cast<double>(whole));
    const auto found = published_ranks_within(choices, heads, budget);
    EXPECT_LE(found.numbers, budget);
    EXPECT_LE(found.numbers, before);
    before = found.numbers;
    // Both kinds of layers take part, those without retrieval heads lose no less.
    EXPECT_GE(found.ranks.front() == 0 ? kWidth : found.ranks.front(), found.ranks.back());
  }
  EXPECT_THROW((void)published_ranks_within(choices, heads, 32 * 4 * 2 * kWidth - 1), Error);
  EXPECT_EQ(published_ranks_within(choices, heads, 32 * 4 * 2 * kWidth).numbers,
            32 * 4 * 2 * kWidth);
}

}  // namespace
}  // namespace sedpa
