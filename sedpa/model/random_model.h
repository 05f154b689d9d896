#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sedpa/model/config.h"
#include "sedpa/model/weight_source.h"

namespace sedpa {

/// A shape that people know by name, for measuring speed without a checkpoint.
struct NamedShape {
  ModelConfig config;
  Dtype dtype = Dtype::f16;  // of the matrices
  std::int64_t rank = 0;     // of the attention projections' factors; 0: they are whole
};

/// "llama3-8b" or "llama3-8b:q4_0"; "llama2-7b-layer4": four of its layers; "llama2-7b-rank1024":
/// query, key, value and output as two factors in all layers but the first quarter, where that is
/// smaller; "llama3-8b-thin96x64": every KV head with keys of 96 numbers, their RoPE planes evenly
/// spread, and values of 64. All three may stand together, in this order. Throws Error naming the
/// shapes, or the types, that there are.
[[nodiscard]] NamedShape parse_shape(const std::string& text);

/// Seeded numbers for every place: the time that a model of this shape takes does not depend on
/// what it has learned. Rows repeat after a while, so that a model of any size is made as fast as
/// memory is written.
class RandomWeights final : public WeightSource {
 public:
  /// Drawn evenly and quantised, or, of types that are not written, blocks by chance of the same
  /// size.
  explicit RandomWeights(const NamedShape& shape);

  [[nodiscard]] bool has(const Place& place) const override;
  [[nodiscard]] std::int64_t rank(const Place& place) const override;
  [[nodiscard]] bool has_bias(const Place&) const override { return false; }
  [[nodiscard]] Dtype dtype(const Place& place) const override;
  [[nodiscard]] std::uint64_t source_bytes(const Place& place) const override;
  [[nodiscard]] MatrixSource matrix(const Place& place) const override;
  [[nodiscard]] std::vector<float> vector(const Place& place) const override;
  [[nodiscard]] std::vector<float> bias(const Place&) const override { return {}; }

 private:
  bool tied_;
  Dtype dtype_;
  std::int64_t rank_;
  std::int32_t first_factored_;                          // layer
  std::map<std::int64_t, std::vector<std::byte>> rows_;  // by cols: [kRows, row_bytes]
};

}  // namespace sedpa
