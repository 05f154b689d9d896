// The forms against scores counted one by one, and the cut against plain algebra.
#include "sedpa/compress/key_planes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/compress/random_matrix.h"

namespace sedpa::test {
namespace {

using Complex = std::complex<double>;

constexpr std::int64_t kKeyDim = 16;
constexpr std::int64_t kPlanes = kKeyDim / 2;

double value_of(const Matrix& form, const std::vector<double>& c) {
  double sum = 0;
  for (std::int64_t i = 0; i < form.rows; ++i) {
    for (std::int64_t j = 0; j < form.cols; ++j) {
      sum += c[static_cast<std::size_t>(i)] * form.at(i, j) * c[static_cast<std::size_t>(j)];
    }
  }
  return sum;
}

Matrix positive_definite(std::int64_t n, std::uint64_t seed) {
  const Matrix x = random_matrix(2 * n, n, seed);
  return multiply(x, x, Transposed::left);
}

/// What a cut does to the coefficients of one query: -1 where a plane went, c where it stayed.
std::vector<double> coefficients(const KeyCut& cut, std::size_t query, std::int64_t planes) {
  std::vector<double> c(static_cast<std::size_t>(2 * planes));
  for (std::int64_t p = 0; p < planes; ++p) c[static_cast<std::size_t>(2 * p)] = -1;
  for (std::size_t i = 0; i < cut.planes.size(); ++i) {
    const Complex gain = cut.gains[query * cut.planes.size() + i];
    c[static_cast<std::size_t>(2 * cut.planes[i])] = gain.real() - 1;
    c[static_cast<std::size_t>(2 * cut.planes[i] + 1)] = gain.imag();
  }
  return c;
}

class Forms : public testing::TestWithParam<std::tuple<RopeStyle, bool>> {};

// The form of any coefficients is the variance of what they do to scores, under attention.
TEST_P(Forms, AreVariancesOfScores) {
  const RopeStyle style =
      std::get<0>(GetParam());  // not a binding: lambdas of older compilers cannot take those
  const bool full = std::get<1>(GetParam());
  constexpr std::int64_t kTokens = 40;
  constexpr std::int64_t kGroup = 2;
  constexpr float kScale = 0.25f;
  constexpr std::int64_t kEvery = 2;
  const HeadClass sees = full ? HeadClass{} : HeadClass::window(2, 0, 9);
  const HeadColumns head{.query = 3,
                         .key = 3 + kGroup * kKeyDim,
                         .value = 3 + (kGroup + 1) * kKeyDim,
                         .key_dim = kKeyDim,
                         .value_dim = kKeyDim};
  const Matrix numbers = random_matrix(kTokens, 3 + (kGroup + 2) * kKeyDim, 1);
  const std::vector<float> qkv(numbers.numbers.begin(), numbers.numbers.end());
  ThreadPool pool(2);
  ScoreReader reader(style, kScale, kEvery, pool);
  std::vector<Matrix> forms(kGroup, Matrix(kKeyDim, kKeyDim));
  reader.add(qkv, numbers.cols, head, sees, forms);

  const auto plane = [&](std::int64_t row, std::int64_t column, std::int64_t p) {
    const auto [a, b] = plane_rows(style, kKeyDim, p);
    const float* at = qkv.data() + row * numbers.cols + column;
    return Complex(at[a], at[b]);
  };
  const Matrix c = random_matrix(1, kKeyDim, 2);
  for (std::int64_t g = 0; g < kGroup; ++g) {
    double expected = 0;
    for (const std::int64_t i : ScoreReader::sample(kTokens, kEvery)) {
      std::vector<double> weights;
      std::vector<double> errors;
      double sum = 0;
      for (std::int64_t j = 0; j <= i; ++j) {
        if (!sees.sees(i, j)) continue;
        double score = 0;
        double error = 0;
        for (std::int64_t p = 0; p < kPlanes; ++p) {
          const Complex q = plane(i, head.query + g * kKeyDim, p);
          const Complex k = plane(j, head.key, p);
          score += (q * std::conj(k)).real();
          error += (Complex(c.at(0, 2 * p), c.at(0, 2 * p + 1)) * q * std::conj(k)).real();
        }
        weights.push_back(std::exp(kScale * score));
        errors.push_back(error);
        sum += weights.back();
      }
      double mean = 0;
      for (std::size_t j = 0; j < errors.size(); ++j) mean += weights[j] / sum * errors[j];
      for (std::size_t j = 0; j < errors.size(); ++j) {
        expected += weights[j] / sum * (errors[j] - mean) * (errors[j] - mean);
      }
    }
    const double found =
        value_of(forms[static_cast<std::size_t>(g)], {c.numbers.begin(), c.numbers.end()});
    EXPECT_NEAR(found, expected, 1e-5 * expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Styles, Forms,
                         testing::Combine(testing::Values(RopeStyle::neighbours, RopeStyle::halves),
                                          testing::Bool()));

TEST(ScoreRows, AreOnesOfTheSequence) {
  for (const std::int64_t tokens : {1, 5, 16, 17, 40, 512, 1000, 4096}) {
    for (const std::int64_t every : {1, 2, 32, 1000}) {
      const auto rows = ScoreReader::sample(tokens, every);
      EXPECT_EQ(std::ssize(rows), std::min(tokens, std::max<std::int64_t>(16, tokens / every)));
      EXPECT_TRUE(std::ranges::is_sorted(rows));
      EXPECT_EQ(std::ranges::adjacent_find(rows), rows.end());
      EXPECT_GE(rows.front(), 0);
      EXPECT_EQ(rows.back(), tokens - 1);
    }
  }
}

// No other gains of the same planes leave less, and the first plane to go is the one that costs
// least of all.
TEST(CutKeys, GainsAreTheBestThereAre) {
  const std::vector<Matrix> forms = {positive_definite(kKeyDim, 3), positive_definite(kKeyDim, 4)};
  const std::vector<std::int32_t> widths = {14, 8};
  const auto cuts = cut_keys(forms, widths);
  ASSERT_EQ(cuts.size(), 2u);
  // The cut's own view of the forms: a thousandth of the diagonal besides.
  std::vector<Matrix> seen = forms;
  for (Matrix& form : seen) {
    for (std::int64_t i = 0; i < kKeyDim; ++i) form.at(i, i) *= 1.001;
  }
  for (std::size_t w = 0; w < cuts.size(); ++w) {
    EXPECT_EQ(2 * std::ssize(cuts[w].planes), widths[w]);
    for (std::size_t g = 0; g < forms.size(); ++g) {
      const auto c = coefficients(cuts[w], g, kPlanes);
      const double least = value_of(seen[g], c);
      for (const std::int32_t p : cuts[w].planes) {
        for (const std::int64_t part : {0, 1}) {
          for (const double step : {-1e-3, 1e-3}) {
            auto other = c;
            other[static_cast<std::size_t>(2 * p + part)] += step;
            EXPECT_GT(value_of(seen[g], other), least);
          }
        }
      }
    }
  }
  // All ways to drop one plane, by solving for the others' coefficients.
  double best = 1e300;
  std::int64_t dropped = -1;
  for (std::int64_t p = 0; p < kPlanes; ++p) {
    double cost = 0;
    for (const Matrix& form : seen) {
      std::vector<std::int64_t> kept;
      for (std::int64_t i = 0; i < kKeyDim; ++i) {
        if (i / 2 != p) kept.push_back(i);
      }
      Matrix inner(kKeyDim - 2, kKeyDim - 2);
      Matrix right(kKeyDim - 2, 1);
      for (std::int64_t i = 0; i < kKeyDim - 2; ++i) {
        for (std::int64_t j = 0; j < kKeyDim - 2; ++j) {
          inner.at(i, j) =
              form.at(kept[static_cast<std::size_t>(i)], kept[static_cast<std::size_t>(j)]);
        }
        right.at(i, 0) = form.at(kept[static_cast<std::size_t>(i)], 2 * p);
      }
      const Matrix x = solve(inner, right);
      std::vector<double> c(kKeyDim);
      c[static_cast<std::size_t>(2 * p)] = -1;
      for (std::size_t i = 0; i < kept.size(); ++i) {
        c[static_cast<std::size_t>(kept[i])] = x.at(static_cast<std::int64_t>(i), 0);
      }
      cost += value_of(form, c);
    }
    if (cost < best) {
      best = cost;
      dropped = p;
    }
  }
  EXPECT_EQ(std::ranges::count(cuts[0].planes, static_cast<std::int32_t>(dropped)), 0);
  double found = 0;
  for (std::size_t g = 0; g < seen.size(); ++g) {
    found += value_of(seen[g], coefficients(cuts[0], g, kPlanes));
  }
  EXPECT_NEAR(found, best, 1e-9 * best);
}

TEST(CutKeys, PlanesWithoutWeightGoFirst) {
  std::vector<Matrix> forms = {positive_definite(kKeyDim, 5)};
  const std::vector<std::int32_t> unused = {1, 4, 6};
  for (const std::int32_t p : unused) {
    for (const std::int64_t row : {2 * p, 2 * p + 1}) {
      for (std::int64_t i = 0; i < kKeyDim; ++i) forms[0].at(row, i) = forms[0].at(i, row) = 0;
    }
  }
  const std::vector<std::int32_t> widths = {10};
  const KeyCut cut = cut_keys(forms, widths).front();
  EXPECT_EQ(cut.planes, (std::vector<std::int32_t>{0, 2, 3, 5, 7}));
  for (const Complex gain : cut.gains) EXPECT_LT(std::abs(gain - 1.0), 1e-6);
}

TEST(CutKeys, NothingSeenIsNoReasonToFail) {
  const std::vector<Matrix> forms(2, Matrix(kKeyDim, kKeyDim));
  const std::vector<std::int32_t> widths = {8};
  const KeyCut cut = cut_keys(forms, widths).front();
  EXPECT_EQ(cut.planes.size(), 4u);
  for (const Complex gain : cut.gains) EXPECT_EQ(gain, 1.0);
}

// Scores of the kept rows are those of the kept planes times the gains, in both pairings; heads
// without a cut stay as they are.
TEST(KeepPlanes, KeepsScores) {
  const KeyCut cut{.planes = {1, 3, 4, 6},
                   .gains = {{1.1, 0.2},
                             {0.9, -0.3},
                             {1, 0},
                             {0.5, 0.5},  // first query
                             {1, 1},
                             {2, 0},
                             {1, -0.1},
                             {0.8, 0}}};
  const std::vector<const KeyCut*> cuts = {&cut, nullptr};
  const Matrix queries = random_matrix(4 * kKeyDim, 1, 6);
  const Matrix keys = random_matrix(2 * kKeyDim, 1, 7);
  for (const RopeStyle style : {RopeStyle::neighbours, RopeStyle::halves}) {
    const Matrix q = keep_planes(queries, cuts, 2, kKeyDim, style, Side::query);
    const Matrix k = keep_planes(keys, cuts, 1, kKeyDim, style, Side::key);
    ASSERT_EQ(q.rows, 2 * 8 + 2 * kKeyDim);
    ASSERT_EQ(k.rows, 8 + kKeyDim);
    for (std::int64_t g = 0; g < 2; ++g) {
      double expected = 0;
      for (std::size_t i = 0; i < cut.planes.size(); ++i) {
        const auto [a, b] = plane_rows(style, kKeyDim, cut.planes[i]);
        const Complex x(queries.at(g * kKeyDim + a, 0), queries.at(g * kKeyDim + b, 0));
        const Complex y(keys.at(a, 0), keys.at(b, 0));
        expected += (cut.gains[static_cast<std::size_t>(g) * 4 + i] * x * std::conj(y)).real();
      }
      double found = 0;
      for (std::int64_t i = 0; i < 8; ++i) found += q.at(g * 8 + i, 0) * k.at(i, 0);
      EXPECT_NEAR(found, expected, 1e-12);
    }
    for (std::int64_t i = 0; i < 2 * kKeyDim; ++i) {
      EXPECT_EQ(q.at(16 + i, 0), queries.at(2 * kKeyDim + i, 0));
    }
    for (std::int64_t i = 0; i < kKeyDim; ++i) EXPECT_EQ(k.at(8 + i, 0), keys.at(kKeyDim + i, 0));
  }
}

}  // namespace
}  // namespace sedpa::test
