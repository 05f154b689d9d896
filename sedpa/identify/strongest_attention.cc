#include "sedpa/identify/strongest_attention.h"

#include <algorithm>
#include <cmath>

namespace sedpa {

StrongestAttention::StrongestAttention(Engine& engine, const AttentionReaderOptions& options)
    : engine_(engine), reader_(engine, options), pool_(engine.threads()) {}

StrongestKeys StrongestAttention::measure(std::span<const std::int32_t> tokens,
                                          std::span<const std::int64_t> rows,
                                          const std::function<void(std::int64_t)>& progress) {
  const ModelConfig& config = engine_.config();
  StrongestKeys result{.rows = std::ssize(rows),
                       .layers = config.layers,
                       .query_heads = config.query_heads,
                       .positions = {},
                       .likely = {}};
  const std::int64_t heads = std::int64_t{config.layers} * config.query_heads;
  result.positions.resize(static_cast<std::size_t>(result.rows * heads));
  result.likely = reader_.read(
      tokens, rows,
      [&](const PassRows& here) {
        for (std::int32_t layer = 0; layer < config.layers; ++layer) {
          measure_layer(layer, here, result.positions.data() + here.index * heads);
        }
      },
      progress);
  return result;
}

// The keys of positions [0, count) in blocks, each number of a block's keys side by side. What the
// last block lacks is never looked at.
void StrongestAttention::turn_keys(std::int32_t layer, std::int64_t count) {
  const std::int64_t dim = reader_.shape().head_dim;
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  keys_.resize(static_cast<std::size_t>(count * dim));
  turned_.resize(static_cast<std::size_t>(reader_.shape().kv_heads * blocks * dim * kBlock));
  for (std::int32_t head = 0; head < reader_.shape().kv_heads; ++head) {
    reader_.read_keys(layer, head, 0, count, keys_.data());
    float* turned = turned_.data() + head * blocks * dim * kBlock;
    pool_.for_each(blocks, [&](std::int64_t block, int) {
      const std::int64_t keys = std::min(kBlock, count - block * kBlock);
      float* to = turned + block * dim * kBlock;
      for (std::int64_t k = 0; k < keys; ++k) {
        const float* key = keys_.data() + (block * kBlock + k) * dim;
        for (std::int64_t d = 0; d < dim; ++d) to[d * kBlock + k] = key[d];
      }
    });
  }
}

void StrongestAttention::measure_layer(std::int32_t layer, const PassRows& rows,
                                       std::int32_t* positions) {
  const AttentionShape& shape = reader_.shape();
  const std::int64_t dim = shape.head_dim;
  const std::int64_t count = rows.positions.back() + 1;
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  turn_keys(layer, count);
  const std::int64_t row_stride = std::int64_t{engine_.config().layers} * shape.query_heads;
  // The scale is positive and the softmax keeps the order: the largest product is the strongest
  // attention.
  pool_.for_each(std::ssize(rows.positions) * shape.query_heads, [&](std::int64_t index, int) {
    const std::int64_t r = index / shape.query_heads;
    const std::int64_t head = index % shape.query_heads;
    const std::int64_t position = rows.positions[static_cast<std::size_t>(r)];
    const float* query = reader_.query(layer, position - rows.first) + head * dim;
    const float* turned = turned_.data() + head / shape.group() * blocks * dim * kBlock;
    float highest = -INFINITY;
    std::int64_t strongest = 0;
    for (std::int64_t begin = 0; begin <= position; begin += kBlock) {
      float products[kBlock] = {};
      const float* block = turned + begin * dim;
      for (std::int64_t d = 0; d < dim; ++d) {
        for (std::int64_t k = 0; k < kBlock; ++k) products[k] += query[d] * block[d * kBlock + k];
      }
      const std::int64_t seen = std::min(kBlock, position + 1 - begin);
      for (std::int64_t k = 0; k < seen; ++k) {
        if (products[k] <= highest) continue;
        highest = products[k];
        strongest = begin + k;
      }
    }
    positions[r * row_stride + layer * shape.query_heads + head] =
        static_cast<std::int32_t>(strongest);
  });
}

}  // namespace sedpa
