#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sedpa/attention/kv_policy.h"

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

/// Sizes that attention needs: the most that any layer has, where heads are thin. Queries of KV
/// head h are the query heads [h * group, (h + 1) * group).
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

/// Where the numbers of one KV head and of its group of queries stand in rows of activations.
struct HeadColumns {
  std::int32_t query = 0;      // qkv column of the group's first query; query g: + g * key_dim
  std::int32_t key = 0;        // qkv column
  std::int32_t value = 0;      // qkv column
  std::int32_t out = 0;        // attention's output column of query 0; query g: + g * value_dim
  std::int32_t key_dim = 0;    // numbers of a query or a key, even
  std::int32_t value_dim = 0;  // numbers of a value

  friend bool operator==(const HeadColumns&, const HeadColumns&) = default;
};

/// The heads of one layer, all of head_dim numbers or thin ones: values that are fewer numbers
/// because they were projected onto fewer directions, queries and keys that are fewer because only
/// some of their RoPE planes (pairs of numbers that turn together) were kept. A qkv row is all
/// queries, KV head by KV head and the group's inside, then all keys, then all values, without
/// gaps.
struct LayerShape {
  std::vector<HeadColumns> heads;  // [kv_heads]
  std::int64_t qkv_cols = 0;
  std::int64_t key_begin = 0;
  std::int64_t value_begin = 0;
  std::int64_t out_cols = 0;
  // [kv_heads, head_dim / 2] in the backend's memory: pair i of a head turns by the angle of plane
  // planes[i]; behind its key_dim / 2 planes stands whatever. Null: pair i by plane i.
  const std::uint8_t* planes = nullptr;
  std::shared_ptr<void> storage;  // of the planes

  /// Heads of these widths, [kv_heads], with `group` queries each; pair i turns by plane i.
  [[nodiscard]] static LayerShape of(std::int32_t group, std::span<const HeadWidths> widths);
  /// All heads of head_dim numbers.
  [[nodiscard]] static LayerShape plain(const AttentionShape& shape);
  /// Whether this is plain(shape).
  [[nodiscard]] bool is_plain(const AttentionShape& shape) const;
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
  /// Who says that all its passes of one key run the same operations on the same memory, so that
  /// they need not be asked for again; unlike all others while a backend lives. 0: nobody.
  std::uint64_t owner = 0;

  friend bool operator==(const StepKey&, const StepKey&) = default;
};

}  // namespace sedpa
