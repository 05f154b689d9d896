#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sedpa/compress/linear_algebra.h"
#include "sedpa/compress/stored_matrix.h"
#include "sedpa/model/weight_source.h"

namespace sedpa {

/// A projection's numbers: the matrix and its bias, a column, empty where there is none.
struct Projection {
  Matrix matrix;
  Matrix bias;
};

/// What is left of the KV heads of one layer.
struct LayerThinness {
  std::vector<HeadWidths> widths;                 // [kv_heads]
  std::vector<std::vector<std::int32_t>> planes;  // [kv_heads][key / 2], ascending
};

/// A model's weights with the attention projections of some layers replaced by those of thinner
/// heads, and the configuration that goes with them. Projections of finished layers lie in files
/// and are mapped, so that memory holds those of one layer.
class ThinWeights final : public WeightSource {
 public:
  /// `original` must outlive this.
  ThinWeights(const ModelConfig& whole, const WeightSource& original);

  /// The model's configuration as it is now.
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  void set_heads(std::int32_t layer, const LayerThinness& heads);
  [[nodiscard]] const LayerThinness& heads(std::int32_t layer) const {
    return heads_[static_cast<std::size_t>(layer)];
  }
  /// One projection of a layer, rounded to `dtype`; those that are not set stay the original's.
  void set(Role role, std::int32_t layer, const Projection& projection, Dtype dtype);

  /// As FactoredWeights.
  void save_layer(std::int32_t layer, const std::string& path, const std::string& label);
  [[nodiscard]] bool load_layer(std::int32_t layer, const std::string& path,
                                const std::string& label);

  [[nodiscard]] bool has(const Place& place) const override { return original_.has(place); }
  [[nodiscard]] std::int64_t rank(const Place& place) const override {
    return original_.rank(place);
  }
  [[nodiscard]] bool has_bias(const Place& place) const override {
    return original_.has_bias(place);
  }
  [[nodiscard]] Dtype dtype(const Place& place) const override;
  [[nodiscard]] std::uint64_t source_bytes(const Place& place) const override;
  [[nodiscard]] MatrixSource matrix(const Place& place) const override;
  [[nodiscard]] std::vector<float> vector(const Place& place) const override {
    return original_.vector(place);
  }
  [[nodiscard]] std::vector<float> bias(const Place& place) const override;

 private:
  struct Stored {
    StoredMatrix matrix;
    std::vector<float> bias;
  };
  [[nodiscard]] const Stored* find(const Place& place) const;

  const WeightSource& original_;
  ModelConfig config_;
  std::vector<LayerThinness> heads_;  // [layers]
  std::map<std::pair<std::int32_t, Role>, Stored> projections_;
};

/// The numbers of a projection, and of its bias.
[[nodiscard]] Projection read_projection(const WeightSource& source, const Place& place);

}  // namespace sedpa
