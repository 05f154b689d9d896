#include "sedpa/compress/low_rank.h"

#include <algorithm>

#include "sedpa/core/fail.h"

namespace sedpa {

Decomposition::Decomposition(const Algebra& algebra, DenseMatrix w, DenseMatrix energy)
    : algebra_(algebra), w_(std::move(w)), directions_(std::move(energy)) {
  const std::vector<double> values = algebra_.dense().eigen(directions_);
  // Rounding may leave eigenvalues a little below zero.
  double tail = 0;
  lost_.assign(values.size() + 1, 0.0);
  for (std::size_t i = values.size(); i-- > 0;) {
    tail += std::max(values[i], 0.0);
    lost_[i] = tail;
  }
  if (tail > 0) {
    for (double& share : lost_) share /= tail;
  }
}

Decomposition Decomposition::of_matrix(const Algebra& algebra, DenseMatrix w) {
  DenseMatrix energy = algebra.dense().multiply(w, w, Transposed::right);
  return {algebra, std::move(w), std::move(energy)};
}

Decomposition Decomposition::of_outputs(const Algebra& algebra, DenseMatrix w,
                                        const DenseMatrix& inputs) {
  DenseOps& dense = algebra.dense();
  DenseMatrix energy = dense.multiply(dense.multiply(w, inputs), w, Transposed::right);
  return {algebra, std::move(w), std::move(energy)};
}

double Decomposition::lost(std::int64_t rank) const {
  return lost_[static_cast<std::size_t>(std::clamp<std::int64_t>(rank, 0, rows()))];
}

Factors Decomposition::cut(std::int64_t rank) const {
  if (rank < 1 || rank > std::min(rows(), cols())) {
    fail("rank is {}, expected 1 to {}", rank, std::min(rows(), cols()));
  }
  const DenseMatrix u = directions_.columns(0, rank);
  return {.a = algebra_.floats(u),
          .b = algebra_.floats(algebra_.dense().multiply(u, w_, Transposed::left)),
          .rank = rank};
}

}  // namespace sedpa
