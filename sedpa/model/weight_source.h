#pragma once
#include <cstdint>
#include <vector>

#include "sedpa/model/checkpoint.h"
#include "sedpa/ops/weight.h"

namespace sedpa {

/// One place of a model and the shape that the configuration gives it; rows = 0 is a vector.
struct Place {
  Role role;
  std::int32_t layer;
  std::int64_t rows;
  std::int64_t cols;
};

/// Where a model's numbers come from: a checkpoint with its adapters, or a random generator.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  [[nodiscard]] virtual bool has(const Place& place) const = 0;
  [[nodiscard]] virtual bool has_bias(const Place& place) const = 0;
  /// The type that the place is stored in after loading. Throws Error when it is missing or its
  /// shape is not the place's.
  [[nodiscard]] virtual Dtype dtype(const Place& place) const = 0;
  /// Bytes that loading the place reads.
  [[nodiscard]] virtual std::uint64_t source_bytes(const Place& place) const = 0;
  /// The rows of a matrix. The source must outlive what it returns.
  [[nodiscard]] virtual MatrixSource matrix(const Place& place) const = 0;
  [[nodiscard]] virtual std::vector<float> vector(const Place& place) const = 0;  // [cols]
  [[nodiscard]] virtual std::vector<float> bias(const Place& place) const = 0;    // [rows] or empty
};

}  // namespace sedpa
