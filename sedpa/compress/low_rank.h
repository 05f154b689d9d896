#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/compress/linear_algebra.h"

namespace sedpa {

/// W [rows, cols] ~ A B.
struct Factors {
  std::vector<float> a;  // [rows, rank]
  std::vector<float> b;  // [rank, cols]
  std::int64_t rank = 0;
};

/// The directions of a projection's output in order of what they carry: of all A B of rank r, A =
/// U_r, B = U_r' W loses least. Matrices stay in the backend's memory; `algebra` must outlive it.
class Decomposition {
 public:
  /// W by itself: the truncated singular value decomposition (Eckart and Young 1936); errors are
  /// squared singular values.
  [[nodiscard]] static Decomposition of_matrix(const Algebra& algebra, DenseMatrix w);
  /// W by what its output carries on the calibration text: U are eigenvectors of W S W' with S the
  /// covariance of the input, which needs no inverse (Swift-SVD, arXiv 2604.01609).
  [[nodiscard]] static Decomposition of_outputs(const Algebra& algebra, DenseMatrix w,
                                                const DenseMatrix& inputs);

  [[nodiscard]] std::int64_t rows() const { return w_.rows; }
  [[nodiscard]] std::int64_t cols() const { return w_.cols; }
  /// The squared error of the output that cutting to a rank leaves, as a share of its square:
  /// 1 at rank 0, 0 at full rank, falling and convex.
  [[nodiscard]] double lost(std::int64_t rank) const;
  /// 1 <= rank <= min(rows, cols).
  [[nodiscard]] Factors cut(std::int64_t rank) const;

 private:
  Decomposition(const Algebra& algebra, DenseMatrix w, DenseMatrix energy);

  const Algebra& algebra_;
  DenseMatrix w_;
  DenseMatrix directions_;    // [rows, rows], as columns
  std::vector<double> lost_;  // [rows + 1], by rank
};

/// The most ranks that two factors of [rows, cols] may have and still be smaller than it.
[[nodiscard]] constexpr std::int64_t most_useful_rank(std::int64_t rows, std::int64_t cols) {
  return (rows * cols - 1) / (rows + cols);
}

}  // namespace sedpa
