#pragma once
// Dense matrices in f64: on the host by OpenBLAS and LAPACK, and in a backend's memory by what it
// has of its own (ops/dense_ops.h).
#include <cstdint>
#include <memory>
#include <vector>

#include "sedpa/ops/dense_ops.h"
#include "sedpa/ops/ops.h"

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

/// A size as BLAS and LAPACK take it.
[[nodiscard]] inline int blas_int(std::int64_t size) { return static_cast<int>(size); }

/// How many threads of their own OpenBLAS and LAPACK may use while it lives. Of the whole process:
/// while several threads call them, set nothing but what holds already.
class BlasThreads {
 public:
  explicit BlasThreads(int count);
  ~BlasThreads();
  /// For so many multiplications: one thread for few, since threads take as long to meet, and on a
  /// machine that others use much longer; else as many as are allowed.
  [[nodiscard]] static BlasThreads for_work(std::int64_t multiplications);
  BlasThreads(const BlasThreads&) = delete;
  BlasThreads& operator=(const BlasThreads&) = delete;

 private:
  int before_;
  int now_;
};

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

/// Chooses where matrices are worked on.
class Algebra {
 public:
  /// `ops` must outlive it.
  explicit Algebra(Ops& ops);

  /// On matrices in the backend's memory: its own operations, or LAPACK where it has none.
  [[nodiscard]] DenseOps& dense() const { return *dense_; }
  /// The numbers of `source` in the backend's memory, a few megabytes at a time.
  [[nodiscard]] DenseMatrix load(const MatrixSource& source) const;
  [[nodiscard]] DenseMatrix to_backend(const Matrix& m) const;
  [[nodiscard]] Matrix to_host(const DenseMatrix& m) const;
  /// Rounded to f32, row by row.
  [[nodiscard]] std::vector<float> floats(const DenseMatrix& m) const;

  /// The functions of the same names, for matrices of the host: on a device where they are so large
  /// that the way there and back is the lesser part.
  [[nodiscard]] Matrix multiply(const Matrix& x, const Matrix& y,
                                Transposed transposed = Transposed::none) const;
  [[nodiscard]] Matrix solve(Matrix a, Matrix b) const;

 private:
  Ops& ops_;
  std::unique_ptr<DenseOps> lapack_;  // null where the backend has operations of its own
  DenseOps* dense_;
};

}  // namespace sedpa
