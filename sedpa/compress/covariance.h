#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/compress/linear_algebra.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// What a projection reads, gathered in f64 over the rows of the calibration text: x the input as
/// the original model has it, y as it arrives behind layers that were compressed before. Where
/// nothing was compressed yet both are the same.
struct Covariance {
  Matrix arriving;  // sum of y y'  [cols, cols]
  Matrix crossed;   // sum of x y'  [cols, cols]

  explicit Covariance(std::int64_t cols) : arriving(cols, cols), crossed(cols, cols) {}
};

/// Adds rows of a backend's memory [n, cols] to covariances.
class CovarianceReader {
 public:
  explicit CovarianceReader(Ops& ops) : ops_(ops) {}
  /// Inputs of the original model and those that arrive are the same.
  void add(Rows rows, Covariance& sum);
  /// First the one, then the other, of the same tokens. What was read last is returned, until the
  /// next call.
  void read_original(Rows rows);
  std::span<const float> add_arriving(Rows rows, Covariance& sum);

 private:
  void read(Rows rows, Matrix& to);

  Ops& ops_;
  std::vector<float> staging_;
  Matrix original_;
  Matrix arriving_;
};

/// Makes a covariance that is not of full rank usable: adds a small share of its mean diagonal to
/// both diagonals, which pulls what the text did not show towards the original matrix.
void regularize(Covariance& sum);

}  // namespace sedpa
