#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sedpa/compress/low_rank.h"
#include "sedpa/compress/stored_matrix.h"
#include "sedpa/model/weight_source.h"

namespace sedpa {

/// A model's weights with some matrices replaced by two factors. The factors of finished layers lie
/// in files and are mapped, so that memory holds those of one layer.
class FactoredWeights final : public WeightSource {
 public:
  /// `original` must outlive this.
  explicit FactoredWeights(const WeightSource& original) : original_(original) {}

  /// Factors of the matrix in a place, rounded to `dtype`.
  void set(const Place& matrix, const Factors& factors, Dtype dtype);
  /// Writes the factors of a layer to a file and reads them from there from now on. `label` tells
  /// whether a file found later is what was asked for.
  void save_layer(std::int32_t layer, const std::string& path, const std::string& label);
  /// Takes up such a file. False when there is none of this label. Throws Error when it is damaged.
  [[nodiscard]] bool load_layer(std::int32_t layer, const std::string& path,
                                const std::string& label);

  [[nodiscard]] bool has(const Place& place) const override { return original_.has(place); }
  [[nodiscard]] std::int64_t rank(const Place& place) const override;
  [[nodiscard]] bool has_bias(const Place& place) const override {
    return original_.has_bias(place);
  }
  [[nodiscard]] Dtype dtype(const Place& place) const override;
  [[nodiscard]] std::uint64_t source_bytes(const Place& place) const override;
  [[nodiscard]] MatrixSource matrix(const Place& place) const override;
  [[nodiscard]] std::vector<float> vector(const Place& place) const override {
    return original_.vector(place);
  }
  [[nodiscard]] std::vector<float> bias(const Place& place) const override {
    return original_.bias(place);
  }

 private:
  struct Pair {
    StoredMatrix a;
    StoredMatrix b;
  };
  [[nodiscard]] const StoredMatrix* find(const Place& place) const;

  const WeightSource& original_;
  std::map<std::pair<std::int32_t, Role>, Pair> pairs_;
};

}  // namespace sedpa
