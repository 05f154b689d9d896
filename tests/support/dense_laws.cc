#include "tests/support/dense_laws.h"

#include <gtest/gtest.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "sedpa/core/error.h"

namespace sedpa::test {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

/// On the host, row by row.
struct Numbers {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> all;

  Numbers(std::int64_t height, std::int64_t width)
      : rows(height), cols(width), all(static_cast<std::size_t>(height * width)) {}
  [[nodiscard]] double& at(std::int64_t i, std::int64_t j) {
    return all[static_cast<std::size_t>(i * cols + j)];
  }
  [[nodiscard]] double at(std::int64_t i, std::int64_t j) const {
    return all[static_cast<std::size_t>(i * cols + j)];
  }
};

Numbers random_numbers(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Numbers m(rows, cols);
  std::mt19937_64 random(seed);
  for (double& x : m.all) x = static_cast<double>(random() >> 11) * 0x1p-52 - 1;
  return m;
}

Numbers transposed(const Numbers& m) {
  Numbers t(m.cols, m.rows);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    for (std::int64_t j = 0; j < m.cols; ++j) t.at(j, i) = m.at(i, j);
  }
  return t;
}

Numbers product(const Numbers& x, const Numbers& y) {
  Numbers out(x.rows, y.cols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t k = 0; k < x.cols; ++k) {
      for (std::int64_t j = 0; j < y.cols; ++j) out.at(i, j) += x.at(i, k) * y.at(k, j);
    }
  }
  return out;
}

Numbers absolute(Numbers m) {
  for (double& x : m.all) x = std::abs(x);
  return m;
}

double size_of(const Numbers& m) {
  double sum = 0;
  for (const double x : m.all) sum += x * x;
  return std::sqrt(sum);
}

/// In the middle of a larger matrix, so that its stride is not its width.
DenseMatrix send(Ops& ops, DenseOps& dense, const Numbers& m) {
  DenseMatrix around = dense.make(m.rows + 2, m.cols + 3);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    ops.copy_from_host(reinterpret_cast<const std::byte*>(m.all.data() + i * m.cols),
                       reinterpret_cast<std::byte*>(around.row(i + 1) + 2),
                       static_cast<std::size_t>(m.cols) * sizeof(double));
  }
  return around.range(1, m.rows).columns(2, m.cols);
}

Numbers fetch(Ops& ops, const DenseMatrix& m) {
  Numbers out(m.rows, m.cols);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    ops.copy_to_host(reinterpret_cast<const std::byte*>(m.row(i)),
                     reinterpret_cast<std::byte*>(out.all.data() + i * m.cols),
                     static_cast<std::size_t>(m.cols) * sizeof(double));
  }
  return out;
}

/// f32 rows in the backend's memory, wider than what is looked at.
struct SentRows {
  Buffer buffer;
  Rows rows;

  SentRows(Ops& ops, const Numbers& m) {
    const std::int64_t stride = m.cols + 5;
    std::vector<float> numbers(static_cast<std::size_t>(m.rows * stride), 7.0F);
    for (std::int64_t i = 0; i < m.rows; ++i) {
      for (std::int64_t j = 0; j < m.cols; ++j) {
        numbers[static_cast<std::size_t>(i * stride + j)] = static_cast<float>(m.at(i, j));
      }
    }
    buffer = ops.allocate(numbers.size() * sizeof(float));
    ops.copy_from_host(reinterpret_cast<const std::byte*>(numbers.data()), buffer.data,
                       numbers.size() * sizeof(float));
    rows = {buffer.floats(), m.rows, m.cols, stride};
  }
};

Numbers rounded(Numbers m) {
  for (double& x : m.all) x = static_cast<float>(x);
  return m;
}

/// |found - expected| <= terms * epsilon * size, number by number.
void expect_near(const Numbers& found, const Numbers& expected, const Numbers& size,
                 std::int64_t terms) {
  ASSERT_EQ(found.rows, expected.rows);
  ASSERT_EQ(found.cols, expected.cols);
  for (std::size_t i = 0; i < found.all.size(); ++i) {
    ASSERT_NEAR(found.all[i], expected.all[i],
                static_cast<double>(terms + 2) * kEpsilon * size.all[i])
        << "number " << i;
  }
}

void expect_eigenvectors(Ops& ops, DenseOps& dense, const Numbers& a) {
  const std::int64_t n = a.rows;
  SCOPED_TRACE(n);
  Numbers reference = a;
  std::vector<double> expected(static_cast<std::size_t>(n));
  ASSERT_EQ(LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'N', 'U', static_cast<int>(n), reference.all.data(),
                           static_cast<int>(n), expected.data()),
            0);
  std::ranges::reverse(expected);

  DenseMatrix m = send(ops, dense, a);
  const std::vector<double> values = dense.eigen(m);
  ASSERT_EQ(std::ssize(values), n);
  const Numbers vectors = fetch(ops, m);
  // Backward stable: errors are a modest multiple of the precision and of the matrix's size.
  const double bound = 4 * static_cast<double>(n + 4) * kEpsilon * size_of(a);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(values[i], expected[i], bound) << i;
    ASSERT_LE(values[i], values[i > 0 ? i - 1 : 0]) << i;
  }
  const Numbers image = product(a, vectors);
  const Numbers angles = product(transposed(vectors), vectors);
  const double straight = 4 * static_cast<double>(n + 4) * kEpsilon;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      ASSERT_NEAR(image.at(i, j), vectors.at(i, j) * values[static_cast<std::size_t>(j)], bound)
          << i << ", " << j;
      ASSERT_NEAR(angles.at(i, j), i == j ? 1.0 : 0.0, straight) << i << ", " << j;
    }
  }
}

Numbers symmetric(std::int64_t n, std::uint64_t seed) {
  Numbers m = random_numbers(n, n, seed);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < i; ++j) m.at(i, j) = m.at(j, i);
  }
  return m;
}

}  // namespace

void expect_dense_copies(Ops& ops, DenseOps& dense) {
  const Numbers zeros = fetch(ops, dense.make(3, 5));
  for (const double x : zeros.all) EXPECT_EQ(x, 0);

  const Numbers m = random_numbers(37, 301, 1);
  const SentRows rows(ops, m);
  const DenseMatrix wide = send(ops, dense, Numbers(37, 301));
  dense.widen(rows.rows, wide);
  EXPECT_EQ(fetch(ops, wide).all, rounded(m).all);

  const SentRows target(ops, Numbers(37, 301));
  dense.narrow(send(ops, dense, m), target.rows);
  std::vector<float> back(m.all.size());
  ops.read(target.rows, back.data());
  EXPECT_EQ(std::vector<double>(back.begin(), back.end()), rounded(m).all);

  Numbers square = random_numbers(65, 65, 2);
  const DenseMatrix sent = send(ops, dense, square);
  std::vector<double> diagonal = dense.diagonal(sent);
  ASSERT_EQ(diagonal.size(), 65u);
  for (std::int64_t i = 0; i < 65; ++i) {
    EXPECT_EQ(diagonal[static_cast<std::size_t>(i)], square.at(i, i));
    square.at(i, i) = diagonal[static_cast<std::size_t>(i)] += 3;
  }
  dense.set_diagonal(sent, diagonal);
  EXPECT_EQ(fetch(ops, sent).all, square.all);
}

void expect_dense_products(Ops& ops, DenseOps& dense) {
  std::uint64_t seed = 10;
  struct Shape {
    int rows;
    int depth;
    int cols;
  };
  for (const Shape& shape : {Shape{1, 1, 1}, {5, 3, 7}, {64, 200, 33}, {129, 65, 130}}) {
    SCOPED_TRACE(shape.rows);
    const Numbers x = random_numbers(shape.rows, shape.depth, ++seed);
    const Numbers y = random_numbers(shape.depth, shape.cols, ++seed);
    const Numbers expected = product(x, y);
    const Numbers size = product(absolute(x), absolute(y));
    const auto check = [&](const Numbers& left, const Numbers& right, Transposed transposed) {
      const DenseMatrix out =
          dense.multiply(send(ops, dense, left), send(ops, dense, right), transposed);
      expect_near(fetch(ops, out), expected, size, shape.depth);
    };
    check(x, y, Transposed::none);
    check(transposed(x), y, Transposed::left);
    check(x, transposed(y), Transposed::right);
  }

  // Sums over more rows than are taken at once.
  for (const std::int64_t count : {1, 100, 5000}) {
    SCOPED_TRACE(count);
    const Numbers x = rounded(random_numbers(count, 19, ++seed));
    const Numbers y = rounded(random_numbers(count, 8, ++seed));
    const SentRows x_rows(ops, x);
    const SentRows y_rows(ops, y);
    for (const bool own : {false, true}) {
      const Numbers& other = own ? x : y;
      const Numbers before = random_numbers(19, other.cols, ++seed);
      const DenseMatrix sum = send(ops, dense, before);
      dense.add_products(x_rows.rows, own ? x_rows.rows : y_rows.rows, sum);
      Numbers expected = product(transposed(x), other);
      Numbers size = product(absolute(transposed(x)), absolute(other));
      for (std::size_t i = 0; i < expected.all.size(); ++i) {
        expected.all[i] += before.all[i];
        size.all[i] += std::abs(before.all[i]);
      }
      expect_near(fetch(ops, sum), expected, size, count);
    }
  }
}

void expect_dense_solutions(Ops& ops, DenseOps& dense) {
  for (const std::int64_t n : {1, 6, 90}) {
    SCOPED_TRACE(n);
    const Numbers root = random_numbers(n, n, static_cast<std::uint64_t>(n));
    Numbers a = product(root, transposed(root));
    for (std::int64_t i = 0; i < n; ++i) a.at(i, i) += 1;
    const Numbers b = random_numbers(n, 11, 70);
    const DenseMatrix solution = send(ops, dense, b);
    dense.solve(send(ops, dense, a), solution);
    const Numbers x = fetch(ops, solution);
    const Numbers found = product(a, x);
    const double bound = 8 * static_cast<double>(n + 4) * kEpsilon * size_of(a) * size_of(x);
    for (std::size_t i = 0; i < b.all.size(); ++i) ASSERT_NEAR(found.all[i], b.all[i], bound);
  }
}

void expect_dense_eigenvectors(Ops& ops, DenseOps& dense, std::int64_t largest) {
  for (const std::int64_t n : {1, 2, 7, 32, 33, 200}) {
    expect_eigenvectors(ops, dense, symmetric(n, static_cast<std::uint64_t>(n)));
  }
  expect_eigenvectors(ops, dense, symmetric(largest, 3));
  Numbers zero(40, 40);
  expect_eigenvectors(ops, dense, zero);
  for (std::int64_t i = 0; i < 40; ++i) zero.at(i, i) = 2;
  expect_eigenvectors(ops, dense, zero);
  // What compression asks for: few directions, of sizes far apart.
  Numbers x = random_numbers(100, 12, 4);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t j = 0; j < x.cols; ++j) x.at(i, j) *= std::pow(10.0, -static_cast<double>(j));
  }
  expect_eigenvectors(ops, dense, product(x, transposed(x)));

  EXPECT_GE(dense.eigen_bytes(64), 64u * 64u * sizeof(double));
}

void expect_dense_refusals(Ops& ops, DenseOps& dense) {
  const auto make = [&](std::int64_t rows, std::int64_t cols) { return dense.make(rows, cols); };
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    Numbers numbers = symmetric(50, 5);
    numbers.at(20, 30) = numbers.at(30, 20) = bad;
    DenseMatrix m = send(ops, dense, numbers);
    EXPECT_THROW((void)dense.eigen(m), Error);
  }
  DenseMatrix oblong = make(3, 4);
  EXPECT_THROW((void)dense.eigen(oblong), Error);
  EXPECT_THROW((void)dense.diagonal(oblong), Error);
  EXPECT_THROW(dense.set_diagonal(oblong, {1, 2, 3}), Error);
  EXPECT_THROW(dense.set_diagonal(make(3, 3), {1, 2}), Error);
  EXPECT_THROW((void)dense.multiply(oblong, oblong), Error);
  EXPECT_THROW((void)dense.multiply(oblong, make(4, 3), Transposed::left), Error);
  EXPECT_THROW((void)dense.multiply(oblong, make(4, 3), Transposed::right), Error);
  const SentRows rows(ops, Numbers(3, 4));
  EXPECT_THROW(dense.widen(rows.rows, make(4, 3)), Error);
  EXPECT_THROW(dense.narrow(make(3, 3), rows.rows), Error);
  EXPECT_THROW(dense.add_products(rows.rows, rows.rows, make(4, 3)), Error);
  EXPECT_THROW(dense.add_products(rows.rows, rows.rows.range(0, 2), make(4, 4)), Error);
  EXPECT_THROW(dense.solve(oblong, make(3, 1)), Error);
  EXPECT_THROW(dense.solve(make(3, 3), make(4, 1)), Error);
  EXPECT_THROW(dense.solve(make(3, 3), make(3, 1)), Error);  // zeros are not definite
}

}  // namespace sedpa::test
