// Directions of values and the output matrix that reads them.
#include "sedpa/compress/value_directions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/compress/host_algebra.h"
#include "tests/compress/random_matrix.h"

namespace sedpa::test {
namespace {

constexpr std::int64_t kDim = 16;
constexpr std::int64_t kGroup = 2;
constexpr std::int64_t kHeads = 4;  // of queries
constexpr std::int64_t kRows = 24;
constexpr std::int64_t kTokens = 300;

/// Outputs of heads with correlations among all of them, [kTokens, kHeads * kDim].
Matrix some_outputs(std::uint64_t seed) {
  return multiply(random_matrix(kTokens, kHeads * kDim, seed),
                  random_matrix(kHeads * kDim, kHeads * kDim, seed + 100));
}

HeadOutputs sums_of(const Matrix& outputs, const Matrix& target) {
  return {multiply(outputs, outputs, Transposed::left), multiply(target, outputs, Transposed::left),
          kTokens};
}

/// The whole matrix that a cut amounts to: W' blockdiag(R).
Matrix whole_of(const ValueCut& cut) {
  Matrix whole(cut.output.rows, kHeads * kDim);
  std::int64_t from = 0;
  for (std::int64_t h = 0; h < kHeads; ++h) {
    const Matrix& r = cut.directions[static_cast<std::size_t>(h / kGroup)];
    const Matrix part = multiply(columns(cut.output, from, r.rows), r);
    for (std::int64_t i = 0; i < whole.rows; ++i) {
      std::copy_n(part.row(i), kDim, whole.row(i) + h * kDim);
    }
    from += r.rows;
  }
  return whole;
}

/// The sum over tokens of | W t - W' B o |^2, and of | W t |^2.
double error_of(const Matrix& w, const ValueCut& cut, const Matrix& outputs, const Matrix& target) {
  const Matrix wanted = multiply(target, w, Transposed::right);
  const Matrix found = multiply(outputs, whole_of(cut), Transposed::right);
  double sum = 0;
  for (std::size_t i = 0; i < wanted.numbers.size(); ++i) {
    const double difference = wanted.numbers[i] - found.numbers[i];
    sum += difference * difference;
  }
  return sum;
}
double square_of(const Matrix& m) {
  double sum = 0;
  for (const double x : m.numbers) sum += x * x;
  return sum;
}

TEST(ValueCut, EachRoundLeavesLess) {
  const Matrix w = random_matrix(kRows, kHeads * kDim, 1);
  const Matrix outputs = some_outputs(2);
  Matrix target = outputs;  // what the original gave: not quite what arrives
  const Matrix noise = some_outputs(3);
  for (std::size_t i = 0; i < target.numbers.size(); ++i) {
    target.numbers[i] += 0.1 * noise.numbers[i];
  }
  const std::vector<std::int32_t> widths = {6, 10};
  double before = 1e300;
  for (const int rounds : {0, 1, 2, 3, 6}) {
    const ValueCut cut =
        cut_values(host_algebra(), w, sums_of(outputs, target), widths, kGroup, rounds);
    ASSERT_EQ(cut.output.cols, kGroup * 16);
    const double error = error_of(w, cut, outputs, target);
    EXPECT_LT(error, before) << rounds;
    before = error;
    for (const Matrix& r : cut.directions) {
      const Matrix products = multiply(r, r, Transposed::right);
      for (std::int64_t i = 0; i < r.rows; ++i) {
        for (std::int64_t j = 0; j < r.rows; ++j) {
          EXPECT_NEAR(products.at(i, j), i == j ? 1 : 0, 1e-12);
        }
      }
    }
  }
}

// Given the directions, no output matrix leaves less: a step any way is a step up.
TEST(ValueCut, TheOutputMatrixIsFitted) {
  const Matrix w = random_matrix(kRows, kHeads * kDim, 4);
  const Matrix outputs = some_outputs(5);
  const std::vector<std::int32_t> widths = {8, 8};
  const ValueCut cut = cut_values(host_algebra(), w, sums_of(outputs, outputs), widths, kGroup);
  const double least = error_of(w, cut, outputs, outputs);
  EXPECT_GT(least, 0);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    ValueCut other = cut;
    const Matrix step = random_matrix(other.output.rows, other.output.cols, 50 + seed);
    for (std::size_t i = 0; i < step.numbers.size(); ++i) {
      other.output.numbers[i] += 0.05 * step.numbers[i];
    }
    EXPECT_GT(error_of(w, other, outputs, outputs), least);
  }
}

// Values that lie in fewer directions than there are numbers lose nothing with those.
TEST(ValueCut, WhatIsFlatLosesNothing) {
  const Matrix w = random_matrix(kRows, kHeads * kDim, 7);
  Matrix outputs(kTokens, kHeads * kDim);
  for (std::int64_t h = 0; h < kHeads; ++h) {
    const Matrix part =
        multiply(random_matrix(kTokens, 5, 20 + static_cast<std::uint64_t>(h)),
                 random_matrix(5, kDim, 30 + static_cast<std::uint64_t>(h / kGroup)));
    for (std::int64_t i = 0; i < kTokens; ++i) {
      std::copy_n(part.row(i), kDim, outputs.row(i) + h * kDim);
    }
  }
  const std::vector<std::int32_t> widths = {5, 5};
  const ValueCut cut = cut_values(host_algebra(), w, sums_of(outputs, outputs), widths, kGroup);
  const double whole = square_of(multiply(outputs, w, Transposed::right));
  EXPECT_LT(error_of(w, cut, outputs, outputs), 1e-6 * whole);
}

TEST(ValueCut, WholeHeadsStayWhatTheyAre) {
  const Matrix w = random_matrix(kRows, kHeads * kDim, 8);
  const Matrix outputs = some_outputs(9);
  const std::vector<std::int32_t> widths = {kDim, kDim};
  const ValueCut cut = cut_values(host_algebra(), w, sums_of(outputs, outputs), widths, kGroup);
  const Matrix whole = whole_of(cut);
  for (std::size_t i = 0; i < w.numbers.size(); ++i) {
    EXPECT_NEAR(whole.numbers[i], w.numbers[i], 1e-8);
  }
  const Matrix values = random_matrix(kHeads / kGroup * kDim, 7, 10);
  EXPECT_EQ(project_values(values, cut.directions).numbers, values.numbers);
}

// Without a text the matrix counts by itself.
TEST(ValueCut, NothingSeenIsNoReasonToFail) {
  const Matrix w = random_matrix(kRows, kHeads * kDim, 11);
  const Matrix none(kHeads * kDim, kHeads * kDim);
  const std::vector<std::int32_t> widths = {8, kDim};
  const ValueCut cut = cut_values(host_algebra(), w, {none, none, kTokens}, widths, kGroup);
  const Matrix whole = whole_of(cut);
  double lost = 0;
  for (std::size_t i = 0; i < w.numbers.size(); ++i) {
    lost += (w.numbers[i] - whole.numbers[i]) * (w.numbers[i] - whole.numbers[i]);
  }
  EXPECT_LT(lost, 0.25 * square_of(w));
}

}  // namespace
}  // namespace sedpa::test
