#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sedpa/core/thread_pool.h"
#include "sedpa/engine/engine.h"
#include "sedpa/identify/attention_reader.h"

namespace sedpa {

/// Which key each query head looks at most, at some rows of a sequence.
struct StrongestKeys {
  std::int64_t rows = 0;
  std::int32_t layers = 0;
  std::int32_t query_heads = 0;
  std::vector<std::int32_t> positions;  // [rows, layers, query_heads]
  std::vector<std::int32_t> likely;     // [rows], the model's most likely next token

  [[nodiscard]] std::int32_t position(std::int64_t row, std::int32_t layer,
                                      std::int32_t head) const {
    return positions[static_cast<std::size_t>((row * layers + layer) * query_heads + head)];
  }
};

/// Finds, in one pass with full attention, the position that gets the largest attention weight of
/// each query head at a row: over all keys that the row sees, itself included; the first of equals.
class StrongestAttention {
 public:
  /// Allocates a session. As AttentionReader.
  StrongestAttention(Engine& engine, const AttentionReaderOptions& options);

  /// As AttentionReader::read.
  StrongestKeys measure(std::span<const std::int32_t> tokens, std::span<const std::int64_t> rows,
                        const std::function<void(std::int64_t done)>& progress = {});

 private:
  // Keys that are held against all queries of a pass at once: a block of them stays in the first
  // cache, and as many products as a vector register or two hold go side by side.
  static constexpr std::int64_t kBlock = 32;

  void measure_layer(std::int32_t layer, const PassRows& rows, std::int32_t* positions);
  void turn_keys(std::int32_t layer, std::int64_t count);

  Engine& engine_;
  AttentionReader reader_;
  ThreadPool pool_;
  std::vector<float> keys_;    // [count, head_dim], of one KV head
  std::vector<float> turned_;  // [kv_heads, blocks, head_dim, kBlock]
};

}  // namespace sedpa
