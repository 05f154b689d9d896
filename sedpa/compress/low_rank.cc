#include "sedpa/compress/low_rank.h"

#include <algorithm>

#include "sedpa/core/fail.h"

namespace sedpa {

Decomposition::Decomposition(Matrix w, const Matrix& energy) : w_(std::move(w)) {
  Eigen found = eigen(energy);
  directions_ = std::move(found.vectors);
  // Rounding may leave eigenvalues a little below zero.
  double tail = 0;
  lost_.assign(found.values.size() + 1, 0.0);
  for (std::size_t i = found.values.size(); i-- > 0;) {
    tail += std::max(found.values[i], 0.0);
    lost_[i] = tail;
  }
  if (tail > 0) {
    for (double& share : lost_) share /= tail;
  }
}

Decomposition Decomposition::of_matrix(Matrix w) {
  const Matrix energy = multiply(w, w, Transposed::right);
  return {std::move(w), energy};
}

Decomposition Decomposition::of_outputs(Matrix w, const Matrix& inputs) {
  const Matrix energy = multiply(multiply(w, inputs), w, Transposed::right);
  return {std::move(w), energy};
}

double Decomposition::lost(std::int64_t rank) const {
  return lost_[static_cast<std::size_t>(std::clamp<std::int64_t>(rank, 0, rows()))];
}

Factors Decomposition::cut(std::int64_t rank) const {
  if (rank < 1 || rank > std::min(rows(), cols())) {
    fail("rank is {}, expected 1 to {}", rank, std::min(rows(), cols()));
  }
  Factors factors;
  factors.rank = rank;
  Matrix u(rows(), rank);
  for (std::int64_t i = 0; i < rows(); ++i) {
    std::copy_n(directions_.row(i), rank, u.row(i));
  }
  const Matrix b = multiply(u, w_, Transposed::left);
  factors.a.assign(u.numbers.begin(), u.numbers.end());
  factors.b.assign(b.numbers.begin(), b.numbers.end());
  return factors;
}

}  // namespace sedpa
