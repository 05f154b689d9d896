#include "sedpa/model/layer_shape.h"

#include <algorithm>
#include <numeric>

namespace sedpa {
namespace {

bool has_thin_keys(const ModelConfig& c, std::int32_t layer) {
  const std::vector<HeadWidths> widths = layer_widths(c, layer);
  return std::any_of(widths.begin(), widths.end(),
                     [&](const HeadWidths& head) { return head.key != c.head_dim; });
}

}  // namespace

std::vector<HeadWidths> layer_widths(const ModelConfig& c, std::int32_t layer) {
  if (c.thin.empty()) {
    return std::vector<HeadWidths>(static_cast<std::size_t>(c.kv_heads),
                                   {.key = c.head_dim, .value = c.head_dim});
  }
  const auto first = c.thin.widths.begin() + std::int64_t{layer} * c.kv_heads;
  return {first, first + c.kv_heads};
}

LayerShape layer_columns(const ModelConfig& c, std::int32_t layer) {
  return LayerShape::of(c.query_heads / c.kv_heads, layer_widths(c, layer));
}

std::vector<std::uint8_t> layer_planes(const ModelConfig& c, std::int32_t layer) {
  if (!has_thin_keys(c, layer)) return {};
  const std::int64_t stride = c.head_dim / 2;
  std::vector<std::uint8_t> planes(static_cast<std::size_t>(c.kv_heads * stride));
  auto to = planes.begin();
  const auto here = c.thin.widths.begin() + std::int64_t{layer} * c.kv_heads;
  auto from =
      c.thin.rope_planes.begin() +
      std::accumulate(c.thin.widths.begin(), here, std::int64_t{0},
                      [](std::int64_t sum, const HeadWidths& w) { return sum + w.key / 2; });
  for (auto head = here; head != here + c.kv_heads; ++head) {
    const std::int32_t count = head->key / 2;
    std::transform(from, from + count, to,
                   [](std::int32_t plane) { return static_cast<std::uint8_t>(plane); });
    from += count;
    to += stride;
  }
  return planes;
}

std::size_t layer_planes_bytes(const ModelConfig& c, std::int32_t layer) {
  return has_thin_keys(c, layer)
             ? static_cast<std::size_t>(c.kv_heads) * static_cast<std::size_t>(c.head_dim / 2)
             : 0;
}

LayerShape load_layer_shape(const ModelConfig& c, std::int32_t layer, Ops& ops) {
  LayerShape shape = layer_columns(c, layer);
  const std::vector<std::uint8_t> planes = layer_planes(c, layer);
  if (planes.empty()) return shape;
  const Buffer memory = ops.allocate(planes.size());
  ops.copy_from_host(reinterpret_cast<const std::byte*>(planes.data()), memory.data, planes.size());
  shape.planes = reinterpret_cast<const std::uint8_t*>(memory.data);
  shape.storage = memory.storage;
  return shape;
}

}  // namespace sedpa
