#include "sedpa/compress/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "sedpa/compress/lapack_ops.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa {
namespace {

/// Bytes of rows that are copied to a backend at once; at least one row.
constexpr std::int64_t kLoadBytes = std::int64_t{4} << 20;
/// A product of n x n matrices takes 2 n^3 operations and sends 24 n^2 bytes: at 5 * 10^11 a second
/// here and 8 * 10^9 bytes a second from memory that is not page-locked, both take as long at n =
/// 750.
constexpr std::int64_t kLeastForDevice = 1024;

/// For checks of shapes: no numbers.
DenseMatrix shape_of(const Matrix& m) { return {nullptr, m.rows, m.cols, m.cols, {}}; }

}  // namespace

BlasThreads::BlasThreads(int count) : before_(openblas_get_num_threads()), now_(count) {
  if (now_ != before_) openblas_set_num_threads(now_);
}
BlasThreads::~BlasThreads() {
  if (now_ != before_) openblas_set_num_threads(before_);
}
BlasThreads BlasThreads::for_work(std::int64_t multiplications) {
  constexpr std::int64_t kFew = std::int64_t{1} << 24;  // milliseconds of one thread
  return BlasThreads(multiplications < kFew ? 1 : openblas_get_num_threads());
}

Matrix multiply(const Matrix& x, const Matrix& y, Transposed transposed) {
  const bool left = transposed == Transposed::left;
  const bool right = transposed == Transposed::right;
  const ProductShape shape = product_shape(shape_of(x), shape_of(y), transposed);
  Matrix product(shape.rows, shape.cols);
  const auto threads = BlasThreads::for_work(shape.rows * shape.cols * shape.depth);
  cblas_dgemm(CblasRowMajor, left ? CblasTrans : CblasNoTrans, right ? CblasTrans : CblasNoTrans,
              blas_int(shape.rows), blas_int(shape.cols), blas_int(shape.depth), 1.0,
              x.numbers.data(), blas_int(x.cols), y.numbers.data(), blas_int(y.cols), 0.0,
              product.numbers.data(), blas_int(product.cols));
  return product;
}

void add_products(const Matrix& x, Matrix& sum) {
  if (x.cols != sum.rows || x.cols != sum.cols) {
    fail("products of rows of {} numbers do not add up to {} x {}", x.cols, sum.rows, sum.cols);
  }
  const auto threads = BlasThreads::for_work(x.rows * sum.rows * sum.cols);
  cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blas_int(sum.rows), blas_int(sum.cols),
              blas_int(x.rows), 1.0, x.numbers.data(), blas_int(x.cols), x.numbers.data(),
              blas_int(x.cols), 1.0, sum.numbers.data(), blas_int(sum.cols));
}

Matrix identity(std::int64_t n) {
  Matrix m(n, n);
  for (std::int64_t i = 0; i < n; ++i) m.at(i, i) = 1;
  return m;
}

Matrix columns(const Matrix& m, std::int64_t begin, std::int64_t count) {
  Matrix part(m.rows, count);
  for (std::int64_t i = 0; i < m.rows; ++i) std::copy_n(m.row(i) + begin, count, part.row(i));
  return part;
}

Matrix solve(Matrix a, Matrix b) {
  check_equations(shape_of(a), shape_of(b));
  const auto threads = BlasThreads::for_work(a.rows * a.rows * (a.rows + b.cols));
  const int status =
      LAPACKE_dposv(LAPACK_ROW_MAJOR, 'U', blas_int(a.rows), blas_int(b.cols), a.numbers.data(),
                    blas_int(a.cols), b.numbers.data(), blas_int(b.cols));
  if (status != 0) fail_not_definite(a.rows, status);
  return b;
}

void orthonormalize_rows(Matrix& m) {
  const auto threads = BlasThreads::for_work(2 * m.rows * m.rows * m.cols);
  // What LAPACK takes for columns are the rows.
  std::vector<double> scales(static_cast<std::size_t>(m.rows));
  const int n = blas_int(m.cols);
  const int count = blas_int(m.rows);
  int status = LAPACKE_dgeqrf(LAPACK_COL_MAJOR, n, count, m.numbers.data(), n, scales.data());
  if (status == 0) {
    status = LAPACKE_dorgqr(LAPACK_COL_MAJOR, n, count, count, m.numbers.data(), n, scales.data());
  }
  if (status != 0) fail("{} directions of {} numbers have no basis ({})", count, n, status);
}

Eigen eigen(Matrix symmetric) {
  if (std::ranges::any_of(symmetric.numbers, [](double x) { return !std::isfinite(x); })) {
    fail_not_finite();
  }
  const std::int64_t n = symmetric.rows;
  Eigen found{.values = std::vector<double>(static_cast<std::size_t>(n)), .vectors = Matrix(n, n)};
  const auto threads = BlasThreads::for_work(4 * n * n * n);
  const int status = LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', blas_int(n),
                                    symmetric.numbers.data(), blas_int(n), found.values.data());
  if (status != 0) fail_not_converged(n, status);
  // LAPACK has the smallest first.
  std::ranges::reverse(found.values);
  for (std::int64_t i = 0; i < n; ++i) {
    std::reverse_copy(symmetric.row(i), symmetric.row(i) + n, found.vectors.row(i));
  }
  return found;
}

Algebra::Algebra(Ops& ops)
    : ops_(ops),
      lapack_(ops.dense() == nullptr ? make_lapack_ops(ops) : nullptr),
      dense_(lapack_ ? lapack_.get() : ops.dense()) {}

DenseMatrix Algebra::load(const MatrixSource& source) const {
  const std::int64_t stored_bytes = row_bytes(source.dtype, source.cols);
  const std::int64_t most = std::clamp<std::int64_t>(
      kLoadBytes / (source.cols * static_cast<std::int64_t>(sizeof(float))), 1, source.rows);
  std::vector<std::byte> stored(static_cast<std::size_t>(most * stored_bytes));
  std::vector<float> numbers(static_cast<std::size_t>(most * source.cols));
  const Buffer buffer = ops_.allocate(numbers.size() * sizeof(float));
  DenseMatrix matrix = dense_->make(source.rows, source.cols);
  for (std::int64_t first = 0; first < source.rows; first += most) {
    const std::int64_t count = std::min(most, source.rows - first);
    source.read(first, count, stored.data());
    for (std::int64_t i = 0; i < count; ++i) {
      dequantize_row(source.dtype, stored.data() + i * stored_bytes, source.cols,
                     numbers.data() + i * source.cols);
    }
    ops_.copy_from_host(reinterpret_cast<const std::byte*>(numbers.data()), buffer.data,
                        static_cast<std::size_t>(count * source.cols) * sizeof(float));
    dense_->widen({buffer.floats(), count, source.cols, source.cols}, matrix.range(first, count));
  }
  return matrix;
}

Matrix Algebra::to_host(const DenseMatrix& m) const {
  Matrix copy(m.rows, m.cols);
  const bool whole = m.stride == m.cols;
  const std::int64_t pieces = whole ? 1 : m.rows;
  const std::int64_t size = whole ? m.rows * m.cols : m.cols;
  for (std::int64_t i = 0; i < pieces; ++i) {
    ops_.copy_to_host(reinterpret_cast<const std::byte*>(m.row(i)),
                      reinterpret_cast<std::byte*>(copy.row(i)),
                      static_cast<std::size_t>(size) * sizeof(double));
  }
  return copy;
}

DenseMatrix Algebra::to_backend(const Matrix& m) const {
  DenseMatrix copy = dense_->make(m.rows, m.cols);
  ops_.copy_from_host(reinterpret_cast<const std::byte*>(m.numbers.data()),
                      reinterpret_cast<std::byte*>(copy.data), m.numbers.size() * sizeof(double));
  return copy;
}

std::vector<float> Algebra::floats(const DenseMatrix& m) const {
  std::vector<float> numbers(static_cast<std::size_t>(m.rows * m.cols));
  const Buffer buffer = ops_.allocate(numbers.size() * sizeof(float));
  const Rows rows{buffer.floats(), m.rows, m.cols, m.cols};
  dense_->narrow(m, rows);
  ops_.read(rows, numbers.data());
  return numbers;
}

Matrix Algebra::multiply(const Matrix& x, const Matrix& y, Transposed transposed) const {
  if (lapack_ || std::min({x.rows, x.cols, y.rows, y.cols}) < kLeastForDevice) {
    return sedpa::multiply(x, y, transposed);
  }
  return to_host(dense_->multiply(to_backend(x), to_backend(y), transposed));
}

Matrix Algebra::solve(Matrix a, Matrix b) const {
  if (lapack_ || std::min(a.rows, b.cols) < kLeastForDevice) {
    return sedpa::solve(std::move(a), std::move(b));
  }
  const DenseMatrix solution = to_backend(b);
  dense_->solve(to_backend(a), solution);
  return to_host(solution);
}

}  // namespace sedpa
