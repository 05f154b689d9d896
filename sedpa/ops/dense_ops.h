#pragma once
// A third part of the seam: dense algebra in f64, for compression (compress/linear_algebra.h). A
// backend that has it works on matrices in its own memory, where the rows that they are made of are
// and what is made of them is wanted: only results cross over to the host.
//
// A DenseOps is the same stream of work as the Ops that gave it, so a call sees what was asked for
// before. These are no operations of a pass: they may allocate what they return and scratch, which
// goes before they return, and may wait. Matrices lie row by row. All throw Error when shapes do
// not fit, and naming what was asked for when memory is short.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "sedpa/core/tensor.h"

namespace sedpa {

/// Numbers [rows, cols] in a backend's memory, `stride` numbers from row to row. Copies, and views
/// of a part, share them.
struct DenseMatrix {
  double* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
  std::shared_ptr<void> storage;

  [[nodiscard]] double* row(std::int64_t i) const { return data + i * stride; }
  /// Columns [begin, begin + count) of the same rows.
  [[nodiscard]] DenseMatrix columns(std::int64_t begin, std::int64_t count) const {
    return {data + begin, rows, count, stride, storage};
  }
  /// Rows [begin, begin + count).
  [[nodiscard]] DenseMatrix range(std::int64_t begin, std::int64_t count) const {
    return {data + begin * stride, count, cols, stride, storage};
  }
};

/// Which side of a product is read as its transpose.
enum class Transposed : std::uint8_t { none, left, right };

class DenseOps {
 public:
  virtual ~DenseOps();

  /// Zeros.
  [[nodiscard]] virtual DenseMatrix make(std::int64_t rows, std::int64_t cols) = 0;
  /// to = from. Same shape.
  virtual void widen(Rows from, const DenseMatrix& to) = 0;
  /// to = from, rounded to nearest even. Same shape.
  virtual void narrow(const DenseMatrix& from, Rows to) = 0;

  /// sum += x' y for rows x [n, sum.rows] and y [n, sum.cols]; y may be x.
  void add_products(Rows x, Rows y, const DenseMatrix& sum);
  /// x y, x' y or x y'.
  [[nodiscard]] DenseMatrix multiply(const DenseMatrix& x, const DenseMatrix& y,
                                     Transposed transposed = Transposed::none);

  /// The numbers [n] on the diagonal of a square matrix; set: in their place.
  [[nodiscard]] virtual std::vector<double> diagonal(const DenseMatrix& m) = 0;
  virtual void set_diagonal(const DenseMatrix& m, const std::vector<double>& numbers) = 0;

  /// b = a^-1 b for a symmetric, positive definite a [n, n], which is used up, and b [n, m]. Throws
  /// Error when a is not positive definite to rounding.
  virtual void solve(const DenseMatrix& a, const DenseMatrix& b) = 0;
  /// The eigenvalues [n] of a symmetric matrix [n, n], the largest first. The matrix is used up and
  /// replaced by its eigenvectors in that order, as columns. Throws Error when it holds a number
  /// that is not finite or the method does not converge.
  [[nodiscard]] virtual std::vector<double> eigen(DenseMatrix& symmetric) = 0;
  /// The most bytes that `eigen` of n x n takes besides the matrix.
  [[nodiscard]] virtual std::size_t eigen_bytes(std::int64_t n) = 0;

 private:
  /// out = product + beta out. Shapes fit.
  virtual void product(const DenseMatrix& x, const DenseMatrix& y, Transposed transposed,
                       double beta, const DenseMatrix& out) = 0;
};

/// What implementations have in common: the shape of a product, and refusals.
struct ProductShape {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t depth = 0;
};
[[nodiscard]] ProductShape product_shape(const DenseMatrix& x, const DenseMatrix& y,
                                         Transposed transposed);
void check_products(Rows x, Rows y, const DenseMatrix& sum);
void check_same_shape(Rows rows, const DenseMatrix& m);
void check_square(const DenseMatrix& m);
void check_equations(const DenseMatrix& a, const DenseMatrix& b);
[[noreturn]] void fail_not_definite(std::int64_t n, std::int64_t where);
[[noreturn]] void fail_not_finite();
[[noreturn]] void fail_not_converged(std::int64_t n, std::int64_t status);

}  // namespace sedpa
