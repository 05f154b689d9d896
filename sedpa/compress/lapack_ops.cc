#include "sedpa/compress/lapack_ops.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "sedpa/compress/linear_algebra.h"
#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

/// Numbers of a side of the squares in which a matrix is turned.
constexpr std::int64_t kTile = 32;

bool is_finite(const DenseMatrix& m) {
  for (std::int64_t i = 0; i < m.rows; ++i) {
    if (!std::all_of(m.row(i), m.row(i) + m.cols, [](double x) { return std::isfinite(x); })) {
      return false;
    }
  }
  return true;
}

class LapackOps final : public DenseOps {
 public:
  explicit LapackOps(Ops& ops) : ops_(ops) {}

  [[nodiscard]] DenseMatrix make(std::int64_t rows, std::int64_t cols) override {
    const Buffer buffer = ops_.allocate(static_cast<std::size_t>(rows * cols) * sizeof(double));
    return {reinterpret_cast<double*>(buffer.data), rows, cols, cols, buffer.storage};
  }
  void widen(Rows from, const DenseMatrix& to) override {
    check_same_shape(from, to);
    for (std::int64_t i = 0; i < from.rows; ++i) std::copy_n(from.row(i), from.cols, to.row(i));
  }
  void narrow(const DenseMatrix& from, Rows to) override {
    check_same_shape(to, from);
    for (std::int64_t i = 0; i < from.rows; ++i) {
      std::transform(from.row(i), from.row(i) + from.cols, to.row(i),
                     [](double x) { return static_cast<float>(x); });
    }
  }

  [[nodiscard]] std::vector<double> diagonal(const DenseMatrix& m) override {
    check_square(m);
    std::vector<double> numbers(static_cast<std::size_t>(m.rows));
    for (std::int64_t i = 0; i < m.rows; ++i) numbers[static_cast<std::size_t>(i)] = m.row(i)[i];
    return numbers;
  }
  void set_diagonal(const DenseMatrix& m, const std::vector<double>& numbers) override {
    check_square(m);
    if (std::ssize(numbers) != m.rows) {
      fail("{} numbers are no diagonal of {} x {}", numbers.size(), m.rows, m.cols);
    }
    for (std::int64_t i = 0; i < m.rows; ++i) m.row(i)[i] = numbers[static_cast<std::size_t>(i)];
  }

  void solve(const DenseMatrix& a, const DenseMatrix& b) override {
    check_equations(a, b);
    const auto threads = BlasThreads::for_work(a.rows * a.rows * (a.rows + b.cols));
    const int status = LAPACKE_dposv(LAPACK_ROW_MAJOR, 'U', blas_int(a.rows), blas_int(b.cols),
                                     a.data, blas_int(a.stride), b.data, blas_int(b.stride));
    if (status != 0) fail_not_definite(a.rows, status);
  }
  [[nodiscard]] std::vector<double> eigen(DenseMatrix& symmetric) override {
    check_square(symmetric);
    if (!is_finite(symmetric)) fail_not_finite();
    const std::int64_t n = symmetric.rows;
    std::vector<double> values(static_cast<std::size_t>(n));
    const auto threads = BlasThreads::for_work(4 * n * n * n);
    // What LAPACK takes for columns are the rows: one vector each, the smallest value first.
    const int status =
        LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', blas_int(n), symmetric.data,
                       blas_int(std::max<std::int64_t>(symmetric.stride, 1)), values.data());
    if (status != 0) fail_not_converged(n, status);
    std::ranges::reverse(values);
    const DenseMatrix vectors = make(n, n);
    for (std::int64_t top = 0; top < n; top += kTile) {
      for (std::int64_t left = 0; left < n; left += kTile) {
        for (std::int64_t i = top; i < std::min(top + kTile, n); ++i) {
          for (std::int64_t j = left; j < std::min(left + kTile, n); ++j) {
            vectors.row(i)[j] = symmetric.row(n - 1 - j)[i];
          }
        }
      }
    }
    symmetric = vectors;
    return values;
  }
  [[nodiscard]] std::size_t eigen_bytes(std::int64_t n) override {
    // dsyevd's workspace, which goes before the vectors are copied.
    return static_cast<std::size_t>(1 + 6 * n + 2 * n * n) * sizeof(double) +
           static_cast<std::size_t>(3 + 5 * n) * sizeof(lapack_int);
  }

 private:
  void product(const DenseMatrix& x, const DenseMatrix& y, Transposed transposed, double beta,
               const DenseMatrix& out) override {
    const ProductShape shape = product_shape(x, y, transposed);
    const auto turned = [&](Transposed side) {
      return transposed == side ? CblasTrans : CblasNoTrans;
    };
    const auto threads = BlasThreads::for_work(shape.rows * shape.cols * shape.depth);
    cblas_dgemm(CblasRowMajor, turned(Transposed::left), turned(Transposed::right),
                blas_int(shape.rows), blas_int(shape.cols), blas_int(shape.depth), 1.0, x.data,
                blas_int(x.stride), y.data, blas_int(y.stride), beta, out.data,
                blas_int(out.stride));
  }

  Ops& ops_;
};

}  // namespace

std::unique_ptr<DenseOps> make_lapack_ops(Ops& ops) { return std::make_unique<LapackOps>(ops); }

}  // namespace sedpa
