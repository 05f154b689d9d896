#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace sedpa {

/// Pairing of the numbers that RoPE rotates: neighbours (2i, 2i+1), as GGUF stores Llama models,
/// or halves (i, i + dim/2), as Hugging Face does.
enum class RopeStyle : std::uint8_t { neighbours, halves };

/// Rotary position embedding with every scaling already folded in (model/config computes it).
struct RopeSpec {
  RopeStyle style = RopeStyle::neighbours;
  std::int32_t dim = 0;                   // numbers of a head that rotate; the others pass
  std::vector<double> inverse_frequency;  // [dim / 2], radians a position
  double magnitude = 1.0;  // YaRN's attention factor: cos and sin are multiplied by it
};

/// Sizes that attention needs, the same in every layer. Queries of KV head h are the query heads
/// [h * group, (h + 1) * group).
struct AttentionShape {
  std::int32_t query_heads = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_dim = 0;  // even
  float scale = 0;            // scores are multiplied by it, usually 1/sqrt(head_dim)

  [[nodiscard]] std::int32_t group() const { return query_heads / kv_heads; }
  /// Columns of a qkv row: all queries, then all keys, then all values.
  [[nodiscard]] std::int64_t qkv_cols() const {
    return static_cast<std::int64_t>(query_heads + 2 * kv_heads) * head_dim;
  }
  [[nodiscard]] std::int64_t key_begin() const {
    return static_cast<std::int64_t>(query_heads) * head_dim;
  }
  [[nodiscard]] std::int64_t value_begin() const {
    return static_cast<std::int64_t>(query_heads + kv_heads) * head_dim;
  }
  [[nodiscard]] std::int64_t out_cols() const { return key_begin(); }
};

/// What one forward pass runs on: a chunk of one sequence, at positions [past, past + tokens).
struct Step {
  std::span<const std::int32_t> tokens;  // ids, on the host
  std::int64_t past = 0;                 // tokens committed before: the cache's length
};

/// The little that the host may branch on: passes of one key run the same operations.
struct StepKey {
  std::int64_t tokens = 0;
  std::int64_t logit_rows = 0;  // the last rows of the chunk that get logits

  friend bool operator==(const StepKey&, const StepKey&) = default;
};

}  // namespace sedpa
