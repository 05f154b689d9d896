#pragma once
// Dense matrices in f64, by OpenBLAS and LAPACK.
#include <cstdint>
#include <span>
#include <vector>

namespace sedpa {

/// Numbers [rows, cols], row by row.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> numbers;

  Matrix() = default;
  Matrix(std::int64_t height, std::int64_t width)
      : rows(height), cols(width), numbers(static_cast<std::size_t>(height * width)) {}

  [[nodiscard]] double* row(std::int64_t i) { return numbers.data() + i * cols; }
  [[nodiscard]] const double* row(std::int64_t i) const { return numbers.data() + i * cols; }
  [[nodiscard]] double& at(std::int64_t i, std::int64_t j) { return row(i)[j]; }
  [[nodiscard]] double at(std::int64_t i, std::int64_t j) const { return row(i)[j]; }
};

/// Which side of a product is read as its transpose.
enum class Transposed : std::uint8_t { none, left, right };

/// x y, x' y or x y'. Throws Error when the shapes do not fit.
[[nodiscard]] Matrix multiply(const Matrix& x, const Matrix& y,
                              Transposed transposed = Transposed::none);
/// sum += x' x for rows x [n, sum.cols].
void add_products(const Matrix& x, Matrix& sum);

[[nodiscard]] Matrix identity(std::int64_t n);
/// Columns [begin, begin + count).
[[nodiscard]] Matrix columns(const Matrix& m, std::int64_t begin, std::int64_t count);

/// The solution x of a x = b for a symmetric, positive definite a [n, n] and b [n, m]. Throws Error
/// when a is not positive definite to rounding.
[[nodiscard]] Matrix solve(Matrix a, Matrix b);
/// Replaces the rows of m [r, n], r <= n, by an orthonormal basis of what they span.
void orthonormalize_rows(Matrix& m);

/// A symmetric matrix's eigenvalues, the largest first, and its eigenvectors in that order, as
/// columns. Throws Error when it holds a number that is not finite or LAPACK does not converge.
struct Eigen {
  std::vector<double> values;  // [n]
  Matrix vectors;              // [n, n]
};
[[nodiscard]] Eigen eigen(Matrix symmetric);

}  // namespace sedpa
