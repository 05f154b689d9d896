// What a cut loses, and that no other of the same rank loses less. The rivals are found by
// alternating least squares (Gauss-Seidel on the factors' rows, in plain loops), which knows
// nothing of eigenvectors.
#include "sedpa/compress/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "sedpa/compress/covariance.h"
#include "sedpa/core/error.h"
#include "tests/compress/host_algebra.h"

namespace sedpa {
namespace {

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix m(rows, cols);
  std::mt19937_64 random(seed);
  for (double& x : m.numbers) x = static_cast<double>(random() >> 11) * 0x1p-52 - 1;
  return m;
}

Matrix plain_product(const Matrix& x, const Matrix& y) {
  Matrix product(x.rows, y.cols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t k = 0; k < x.cols; ++k) {
      for (std::int64_t j = 0; j < y.cols; ++j) product.at(i, j) += x.at(i, k) * y.at(k, j);
    }
  }
  return product;
}

Matrix transposed(const Matrix& m) {
  Matrix t(m.cols, m.rows);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    for (std::int64_t j = 0; j < m.cols; ++j) t.at(j, i) = m.at(i, j);
  }
  return t;
}

Matrix product_of(const Factors& f, std::int64_t rows, std::int64_t cols) {
  Matrix a(rows, f.rank);
  Matrix b(f.rank, cols);
  a.numbers.assign(f.a.begin(), f.a.end());
  b.numbers.assign(f.b.begin(), f.b.end());
  return plain_product(a, b);
}

double squared(const Matrix& m) {
  double sum = 0;
  for (const double x : m.numbers) sum += x * x;
  return sum;
}

/// || (target - found) ||^2
double distance(const Matrix& target, const Matrix& found) {
  Matrix difference = target;
  for (std::size_t i = 0; i < difference.numbers.size(); ++i) {
    difference.numbers[i] -= found.numbers[i];
  }
  return squared(difference);
}

/// Inputs [cols, count] some of whose directions are a hundred times as large as others.
Matrix inputs(std::int64_t cols, std::int64_t count, std::uint64_t seed) {
  Matrix x = plain_product(random_matrix(cols, cols, seed), random_matrix(cols, count, seed + 1));
  for (std::int64_t i = 0; i < cols; ++i) {
    for (std::int64_t t = 0; t < count; ++t) x.at(i, t) /= static_cast<double>(1 + i * i);
  }
  return x;
}

Matrix covariance(const Matrix& x) { return plain_product(x, transposed(x)); }

/// The least || y - a b x ||^2 that alternating least squares finds from a random start: one number
/// of a, then of b, after the other is set to where the error is least.
double rival(const Matrix& y, const Matrix& x, std::int64_t rank, std::uint64_t seed) {
  Matrix a = random_matrix(y.rows, rank, seed);
  Matrix b = random_matrix(rank, x.rows, seed + 1);
  for (int sweep = 0; sweep < 200; ++sweep) {
    const Matrix bx = plain_product(b, x);
    Matrix left = plain_product(a, bx);
    for (std::size_t i = 0; i < left.numbers.size(); ++i)
      left.numbers[i] = y.numbers[i] - left.numbers[i];
    for (std::int64_t i = 0; i < a.rows; ++i) {
      for (std::int64_t r = 0; r < rank; ++r) {
        double along = 0;
        double norm = 0;
        for (std::int64_t t = 0; t < x.cols; ++t) {
          along += left.at(i, t) * bx.at(r, t);
          norm += bx.at(r, t) * bx.at(r, t);
        }
        const double step = along / norm;
        a.at(i, r) += step;
        for (std::int64_t t = 0; t < x.cols; ++t) left.at(i, t) -= step * bx.at(r, t);
      }
    }
    for (std::int64_t r = 0; r < rank; ++r) {
      for (std::int64_t j = 0; j < x.rows; ++j) {
        double along = 0;
        double norm = 0;
        for (std::int64_t i = 0; i < a.rows; ++i) {
          for (std::int64_t t = 0; t < x.cols; ++t) {
            const double direction = a.at(i, r) * x.at(j, t);
            along += left.at(i, t) * direction;
            norm += direction * direction;
          }
        }
        const double step = norm > 0 ? along / norm : 0;
        b.at(r, j) += step;
        for (std::int64_t i = 0; i < a.rows; ++i) {
          for (std::int64_t t = 0; t < x.cols; ++t) {
            left.at(i, t) -= step * a.at(i, r) * x.at(j, t);
          }
        }
      }
    }
  }
  return distance(y, plain_product(plain_product(a, b), x));
}

constexpr double kRounding = 1e-5;  // factors are f32

Decomposition of_matrix(const Matrix& w) {
  const Algebra& algebra = test::host_algebra();
  return Decomposition::of_matrix(algebra, algebra.to_backend(w));
}
Decomposition of_outputs(const Matrix& w, const Matrix& sums) {
  const Algebra& algebra = test::host_algebra();
  return Decomposition::of_outputs(algebra, algebra.to_backend(w), algebra.to_backend(sums));
}
Matrix regularized(const Matrix& sums) {
  const Algebra& algebra = test::host_algebra();
  const DenseMatrix m = algebra.to_backend(sums);
  regularize(algebra.dense(), m);
  return algebra.to_host(m);
}

TEST(LowRank, WithoutInputsLosesTheSmallSingularValues) {
  // Known singular values between random directions, made orthonormal by Gram and Schmidt.
  const std::vector<double> values = {9, 5, 4, 1, 0.5};
  const auto directions = [&](std::int64_t rows, std::uint64_t seed) {
    Matrix q = random_matrix(static_cast<std::int64_t>(values.size()), rows, seed);
    for (std::int64_t i = 0; i < q.rows; ++i) {
      for (std::int64_t k = 0; k < i; ++k) {
        double along = 0;
        for (std::int64_t j = 0; j < rows; ++j) along += q.at(i, j) * q.at(k, j);
        for (std::int64_t j = 0; j < rows; ++j) q.at(i, j) -= along * q.at(k, j);
      }
      double norm = 0;
      for (std::int64_t j = 0; j < rows; ++j) norm += q.at(i, j) * q.at(i, j);
      for (std::int64_t j = 0; j < rows; ++j) q.at(i, j) /= std::sqrt(norm);
    }
    return q;
  };
  Matrix scaled = directions(8, 1);
  for (std::int64_t i = 0; i < scaled.rows; ++i) {
    for (std::int64_t j = 0; j < scaled.cols; ++j) {
      scaled.at(i, j) *= values[static_cast<std::size_t>(i)];
    }
  }
  const Matrix w = plain_product(transposed(scaled), directions(7, 3));
  const auto found = of_matrix(w);
  const double all = squared(w);
  double tail = all;
  for (std::int64_t rank = 1; rank <= 5; ++rank) {
    const double value = values[static_cast<std::size_t>(rank - 1)];
    tail -= value * value;
    EXPECT_NEAR(found.lost(rank) * all, tail, 1e-9 * all);
    EXPECT_NEAR(distance(w, product_of(found.cut(rank), 8, 7)), tail, kRounding * all);
  }
}

TEST(LowRank, OfOutputsLosesLeastOfThem) {
  const Matrix w = random_matrix(7, 6, 11);
  const Matrix x = inputs(6, 40, 12);
  const Matrix y = plain_product(w, x);
  const auto found = of_outputs(w, covariance(x));
  for (std::int64_t rank = 1; rank <= 5; ++rank) {
    const double lost = distance(y, plain_product(product_of(found.cut(rank), 7, 6), x));
    EXPECT_NEAR(lost, found.lost(rank) * squared(y), kRounding * squared(y));
    for (const std::uint64_t seed : {100u, 200u, 300u}) {
      EXPECT_LE(lost, rival(y, x, rank, seed) + kRounding * squared(y));
    }
    // Singular values of the matrix alone know nothing of the inputs.
    const auto blind = of_matrix(w).cut(rank);
    EXPECT_LT(lost, distance(y, plain_product(product_of(blind, 7, 6), x)));
  }
}

// Fewer rows than inputs: what they do not show is decided by the matrix itself.
TEST(LowRank, FewInputsLeaveTheRestToTheMatrix) {
  const Matrix w = random_matrix(5, 6, 31);
  const Matrix nothing = regularized(Matrix(6, 6));
  const auto found = of_outputs(w, nothing);
  const auto blind = of_matrix(w);
  for (std::int64_t rank = 0; rank <= 5; ++rank) {
    EXPECT_NEAR(found.lost(rank), blind.lost(rank), 1e-9);
  }
  const Matrix x = inputs(6, 3, 32);
  const Matrix sum = regularized(covariance(x));
  const auto few = of_outputs(w, sum);
  EXPECT_LT(distance(w, product_of(few.cut(5), 5, 6)), kRounding * squared(w));
  const Matrix y = plain_product(w, x);
  EXPECT_LT(distance(y, plain_product(product_of(few.cut(3), 5, 6), x)), 1e-2 * squared(y));
}

TEST(LowRank, FullRankIsTheMatrix) {
  for (const auto& [rows, cols] : {std::pair{6, 9}, {9, 6}, {8, 8}}) {
    const Matrix w = random_matrix(rows, cols, 41);
    const auto found = of_matrix(w);
    const std::int64_t rank = std::min(rows, cols);
    EXPECT_LT(distance(w, product_of(found.cut(rank), rows, cols)), 1e-10 * squared(w));
    EXPECT_THROW((void)found.cut(rank + 1), Error);
    EXPECT_THROW((void)found.cut(0), Error);
  }
}

TEST(LowRank, RefusesWhatIsNoNumber) {
  Matrix w = random_matrix(4, 4, 51);
  w.at(1, 2) = std::nan("");
  EXPECT_THROW((void)of_matrix(w), Error);
}

TEST(LowRank, UsefulRanksAreThoseThatSave) {
  for (std::int64_t rows = 1; rows < 40; ++rows) {
    for (std::int64_t cols = 1; cols < 40; ++cols) {
      const std::int64_t most = most_useful_rank(rows, cols);
      EXPECT_LT(most * (rows + cols), rows * cols);
      EXPECT_GE((most + 1) * (rows + cols), rows * cols);
    }
  }
}

}  // namespace
}  // namespace sedpa
