#include "sedpa/ops/step.h"

#include <algorithm>

namespace sedpa {

LayerShape LayerShape::of(std::int32_t group, std::span<const HeadWidths> widths) {
  LayerShape shape;
  std::int32_t column = 0;
  std::int32_t out = 0;
  for (const HeadWidths& head : widths) {
    shape.heads.push_back(
        {.query = column, .out = out, .key_dim = head.key, .value_dim = head.value});
    column += group * head.key;
    out += group * head.value;
  }
  shape.key_begin = column;
  for (HeadColumns& head : shape.heads) {
    head.key = column;
    column += head.key_dim;
  }
  shape.value_begin = column;
  for (HeadColumns& head : shape.heads) {
    head.value = column;
    column += head.value_dim;
  }
  shape.qkv_cols = column;
  shape.out_cols = out;
  return shape;
}

LayerShape LayerShape::plain(const AttentionShape& shape) {
  const std::vector<HeadWidths> widths(static_cast<std::size_t>(shape.kv_heads),
                                       {.key = shape.head_dim, .value = shape.head_dim});
  return of(shape.group(), widths);
}

bool LayerShape::is_plain(const AttentionShape& shape) const {
  return planes == nullptr && static_cast<std::int32_t>(heads.size()) == shape.kv_heads &&
         std::all_of(heads.begin(), heads.end(), [&](const HeadColumns& head) {
           return head.key_dim == shape.head_dim && head.value_dim == shape.head_dim;
         });
}

}  // namespace sedpa
