#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/compress/linear_algebra.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// Adds the products x x' of rows x of a backend's memory [n, cols] to sums [cols, cols].
class CovarianceReader {
 public:
  explicit CovarianceReader(Ops& ops) : ops_(ops) {}
  /// The rows' numbers are returned, until the next call.
  std::span<const float> add(Rows rows, Matrix& sum);

 private:
  Ops& ops_;
  std::vector<float> numbers_;
  Matrix rows_;
};

/// Makes a covariance that is not of full rank usable: adds a small share of its mean diagonal to
/// the diagonal, so that where the text shows nothing a matrix counts by itself.
void regularize(Matrix& covariance);

}  // namespace sedpa
