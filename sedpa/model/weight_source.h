#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "sedpa/model/checkpoint.h"
#include "sedpa/model/config.h"
#include "sedpa/ops/weight.h"

namespace sedpa {

/// One place of a model and the shape that the configuration gives it; rows = 0 is a vector.
struct Place {
  Role role;
  std::int32_t layer;
  std::int64_t rows;
  std::int64_t cols;
  Factor factor = Factor::none;  // of the place's matrix; rows and cols are then the factor's

  [[nodiscard]] Place factor_a(std::int64_t rank) const {
    return {role, layer, rows, rank, Factor::a};
  }
  [[nodiscard]] Place factor_b(std::int64_t rank) const {
    return {role, layer, rank, cols, Factor::b};
  }
};

inline constexpr std::size_t kAttentionProjections = 4;
/// Query, key, value and output projection of a layer.
[[nodiscard]] std::array<Place, kAttentionProjections> attention_places(const ModelConfig& config,
                                                                        std::int32_t layer);

/// Where a model's numbers come from: a checkpoint with its adapters, or a random generator.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  [[nodiscard]] virtual bool has(const Place& place) const = 0;
  /// The rank of the two factors that a matrix is stored as; 0: it is stored itself. Throws Error
  /// when the factors do not make sense.
  [[nodiscard]] virtual std::int64_t rank(const Place& place) const = 0;
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
