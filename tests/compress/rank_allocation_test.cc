// Budgets against all possible choices, tried one by one.
#include "sedpa/compress/rank_allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "sedpa/core/error.h"

namespace sedpa {
namespace {

/// Losses that fall and are convex, as tails of sorted eigenvalues are; the last step is to 0.
std::vector<RankChoices> random_matrices(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<RankChoices> matrices;
  for (int i = 0; i < 4; ++i) {
    RankChoices matrix{.rows = 8 + 4 * i, .cols = 16, .ranks = {}, .losses = {}};
    for (std::int64_t rank = 1; rank * (matrix.rows + matrix.cols) < matrix.rows * matrix.cols;
         ++rank) {
      matrix.ranks.push_back(rank);
    }
    double loss = 0;
    double step = 0;
    for (std::size_t k = matrix.ranks.size(); k-- > 0;) {
      step += static_cast<double>(random() % 1000) / 1000;
      loss += step;
      matrix.losses.insert(matrix.losses.begin(), loss);
    }
    matrices.push_back(matrix);
  }
  return matrices;
}

/// Calls fn(numbers, loss) for every choice there is.
void for_all(const std::vector<RankChoices>& matrices,
             const std::function<void(std::int64_t, double)>& fn, std::size_t from = 0,
             std::int64_t numbers = 0, double loss = 0) {
  if (from == matrices.size()) return fn(numbers, loss);
  const RankChoices& matrix = matrices[from];
  for_all(matrices, fn, from + 1, numbers + matrix.numbers(0), loss);
  for (std::size_t k = 0; k < matrix.ranks.size(); ++k) {
    for_all(matrices, fn, from + 1, numbers + matrix.numbers(matrix.ranks[k]),
            loss + matrix.losses[k]);
  }
}

double loss_of(const std::vector<RankChoices>& matrices, const Allocation& allocation) {
  double loss = 0;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    for (std::size_t k = 0; k < matrices[i].ranks.size(); ++k) {
      if (matrices[i].ranks[k] == allocation.ranks[i]) loss += matrices[i].losses[k];
    }
  }
  return loss;
}

// One price for all finds the best choice at the numbers that it takes, whatever they are; what is
// left of the budget is less than the largest step.
TEST(RankAllocation, NothingOfItsSizeLosesLess) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const auto matrices = random_matrices(seed);
    std::int64_t all = 0;
    for (const RankChoices& matrix : matrices) all += matrix.numbers(0);
    for (const double share : {0.4, 0.6, 0.8, 0.95}) {
      const auto budget = static_cast<std::int64_t>(share * static_cast<double>(all));
      const Allocation found = allocate_ranks(matrices, budget);
      std::int64_t numbers = 0;
      for (std::size_t i = 0; i < matrices.size(); ++i) {
        numbers += matrices[i].numbers(found.ranks[i]);
      }
      EXPECT_EQ(numbers, found.numbers);
      EXPECT_LE(numbers, budget);
      EXPECT_NEAR(found.loss, loss_of(matrices, found), 1e-12);
      // Within the largest step of the best of all.
      double best = std::numeric_limits<double>::infinity();
      double best_smaller = std::numeric_limits<double>::infinity();
      const std::int64_t step = 20 + 16;
      for_all(matrices, [&](std::int64_t n, double loss) {
        if (n <= budget) best = std::min(best, loss);
        if (n <= budget - 2 * step) best_smaller = std::min(best_smaller, loss);
      });
      EXPECT_GE(found.loss, best - 1e-9);
      EXPECT_LE(found.loss, best_smaller + 1e-9);
    }
  }
}

TEST(RankAllocation, KeepsAllWhenAllIsAllowed) {
  const auto matrices = random_matrices(1);
  std::int64_t all = 0;
  for (const RankChoices& matrix : matrices) all += matrix.numbers(0);
  const Allocation found = allocate_ranks(matrices, all);
  EXPECT_EQ(found.ranks, std::vector<std::int64_t>(4, 0));
  EXPECT_EQ(found.loss, 0);
}

TEST(RankAllocation, NamesTheLeastThatCanBeReached) {
  const auto matrices = random_matrices(1);
  const std::int64_t least = least_numbers(matrices);
  EXPECT_EQ(least, 24 + 28 + 32 + 36);  // rank 1 of each
  EXPECT_EQ(allocate_ranks(matrices, least).ranks, std::vector<std::int64_t>(4, 1));
  try {
    (void)allocate_ranks(matrices, least - 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("120"), std::string::npos) << error.what();
  }
}

TEST(RankAllocation, StaysWithinALoss) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const auto matrices = random_matrices(seed);
    double before = std::numeric_limits<double>::infinity();
    for (const double most : {0.0, 0.5, 2.0, 10.0}) {
      const Allocation found = allocate_within_loss(matrices, most);
      EXPECT_LE(found.loss, most);
      EXPECT_LE(static_cast<double>(found.numbers), before);
      before = static_cast<double>(found.numbers);
    }
  }
}

}  // namespace
}  // namespace sedpa
