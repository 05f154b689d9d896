#pragma once
// Where the numbers of each head of a layer stand, plain heads or thin ones.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sedpa/model/config.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// The widths of a layer's KV heads, [kv_heads].
[[nodiscard]] std::vector<HeadWidths> layer_widths(const ModelConfig& config, std::int32_t layer);
/// The columns of a layer, without the planes: those are a backend's.
[[nodiscard]] LayerShape layer_columns(const ModelConfig& config, std::int32_t layer);

/// As LayerShape::planes has them, [kv_heads, head_dim / 2], on the host. Empty where all of the
/// layer's keys have head_dim numbers: pair i then turns by plane i.
[[nodiscard]] std::vector<std::uint8_t> layer_planes(const ModelConfig& config, std::int32_t layer);
/// Bytes that load_layer_shape allocates.
[[nodiscard]] std::size_t layer_planes_bytes(const ModelConfig& config, std::int32_t layer);

/// The whole shape, its planes in the backend's memory.
[[nodiscard]] LayerShape load_layer_shape(const ModelConfig& config, std::int32_t layer, Ops& ops);

}  // namespace sedpa
