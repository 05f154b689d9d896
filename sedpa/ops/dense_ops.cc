#include "sedpa/ops/dense_ops.h"

#include <algorithm>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

/// Rows that are widened at once.
constexpr std::int64_t kSlabRows = 1024;

}  // namespace

DenseOps::~DenseOps() = default;

void DenseOps::add_products(Rows x, Rows y, const DenseMatrix& sum) {
  check_products(x, y, sum);
  const std::int64_t most = std::min(kSlabRows, x.rows);
  if (most == 0) return;
  const DenseMatrix x_slab = make(most, x.cols);
  const DenseMatrix y_slab = x == y ? x_slab : make(most, y.cols);
  for (std::int64_t first = 0; first < x.rows; first += most) {
    const std::int64_t count = std::min(most, x.rows - first);
    widen(x.range(first, count), x_slab.range(0, count));
    if (x != y) widen(y.range(first, count), y_slab.range(0, count));
    product(x_slab.range(0, count), y_slab.range(0, count), Transposed::left, 1, sum);
  }
}

DenseMatrix DenseOps::multiply(const DenseMatrix& x, const DenseMatrix& y, Transposed transposed) {
  const ProductShape shape = product_shape(x, y, transposed);
  DenseMatrix out = make(shape.rows, shape.cols);
  product(x, y, transposed, 0, out);
  return out;
}

ProductShape product_shape(const DenseMatrix& x, const DenseMatrix& y, Transposed transposed) {
  const bool left = transposed == Transposed::left;
  const bool right = transposed == Transposed::right;
  const std::int64_t depth = left ? x.rows : x.cols;
  if (depth != (right ? y.cols : y.rows)) {
    fail("matrices of {} x {} and {} x {} cannot be multiplied", x.rows, x.cols, y.rows, y.cols);
  }
  return {left ? x.cols : x.rows, right ? y.rows : y.cols, depth};
}

void check_products(Rows x, Rows y, const DenseMatrix& sum) {
  if (x.rows == y.rows && x.cols == sum.rows && y.cols == sum.cols) return;
  fail("products of {} rows of {} numbers and {} of {} do not add up to {} x {}", x.rows, x.cols,
       y.rows, y.cols, sum.rows, sum.cols);
}

void check_same_shape(Rows rows, const DenseMatrix& m) {
  if (rows.rows == m.rows && rows.cols == m.cols) return;
  fail("{} rows of {} numbers are no matrix of {} x {}", rows.rows, rows.cols, m.rows, m.cols);
}

void check_square(const DenseMatrix& m) {
  if (m.rows != m.cols) fail("a matrix is {} x {}, expected a square", m.rows, m.cols);
}

void check_equations(const DenseMatrix& a, const DenseMatrix& b) {
  if (a.rows == a.cols && a.rows == b.rows) return;
  fail("equations of {} x {} do not go with {} x {} right sides", a.rows, a.cols, b.rows, b.cols);
}

void fail_not_definite(std::int64_t n, std::int64_t where) {
  fail("a {} x {} matrix was to be positive definite and is not ({})", n, n, where);
}

void fail_not_finite() {
  fail("a matrix whose eigenvectors are wanted holds numbers that are not finite");
}

void fail_not_converged(std::int64_t n, std::int64_t status) {
  fail("the eigenvectors of a {} x {} matrix were not found ({})", n, n, status);
}

}  // namespace sedpa
