#include "sedpa/compress/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

int as_int(std::int64_t size) { return static_cast<int>(size); }

}  // namespace

Matrix multiply(const Matrix& x, const Matrix& y, Transposed transposed) {
  const bool left = transposed == Transposed::left;
  const bool right = transposed == Transposed::right;
  const std::int64_t depth = left ? x.rows : x.cols;
  if (depth != (right ? y.cols : y.rows)) {
    fail("matrices of {} x {} and {} x {} cannot be multiplied", x.rows, x.cols, y.rows, y.cols);
  }
  Matrix product(left ? x.cols : x.rows, right ? y.rows : y.cols);
  cblas_dgemm(CblasRowMajor, left ? CblasTrans : CblasNoTrans, right ? CblasTrans : CblasNoTrans,
              as_int(product.rows), as_int(product.cols), as_int(depth), 1.0, x.numbers.data(),
              as_int(x.cols), y.numbers.data(), as_int(y.cols), 0.0, product.numbers.data(),
              as_int(product.cols));
  return product;
}

void add_products(const Matrix& x, Matrix& sum) {
  if (x.cols != sum.rows || x.cols != sum.cols) {
    fail("products of rows of {} numbers do not add up to {} x {}", x.cols, sum.rows, sum.cols);
  }
  cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, as_int(sum.rows), as_int(sum.cols),
              as_int(x.rows), 1.0, x.numbers.data(), as_int(x.cols), x.numbers.data(),
              as_int(x.cols), 1.0, sum.numbers.data(), as_int(sum.cols));
}

Eigen eigen(Matrix symmetric) {
  if (std::ranges::any_of(symmetric.numbers, [](double x) { return !std::isfinite(x); })) {
    fail("a matrix whose eigenvectors are wanted holds numbers that are not finite");
  }
  const std::int64_t n = symmetric.rows;
  Eigen found{.values = std::vector<double>(static_cast<std::size_t>(n)), .vectors = Matrix(n, n)};
  const int status = LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', as_int(n), symmetric.numbers.data(),
                                    as_int(n), found.values.data());
  if (status != 0) fail("the eigenvectors of a {} x {} matrix were not found ({})", n, n, status);
  // LAPACK has the smallest first.
  std::ranges::reverse(found.values);
  for (std::int64_t i = 0; i < n; ++i) {
    std::reverse_copy(symmetric.row(i), symmetric.row(i) + n, found.vectors.row(i));
  }
  return found;
}

}  // namespace sedpa
