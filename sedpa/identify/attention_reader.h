#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/session.h"

namespace sedpa {

struct AttentionReaderOptions {
  std::int64_t context = 8192;  // tokens of the longest sequence
  KvDtype kv = KvDtype::f16;    // f32, f16 or bf16
  std::int64_t chunk = 0;       // tokens of one prefill pass; 0: what suits the device
};

/// Rows of one pass that are to be looked at.
struct PassRows {
  std::int64_t first = 0;                   // position of the pass's first token
  std::span<const std::int64_t> positions;  // of the rows, ascending
  std::int64_t index = 0;                   // of the first of them among all that were asked for
};

/// Reads sequences with full attention and keeps, of chosen rows, what went into each layer's
/// attention and what came out of it: for the methods that score heads. Queries and outputs come
/// from the pass itself, keys and values from its cache.
class AttentionReader {
 public:
  /// Allocates a session. The engine must be loaded and outlive this. Throws Error when keys and
  /// values are not stored as plain numbers, or when the model's own attention is a window shorter
  /// than the context.
  AttentionReader(Engine& engine, const AttentionReaderOptions& options);
  /// The session that it allocates, to plan memory by.
  [[nodiscard]] static SessionOptions session_options(const AttentionReaderOptions& options,
                                                      const ModelConfig& config);

  /// Reads `tokens` up to the last of `rows`: ascending positions, those to look at. Everything
  /// before the first of them is only read. After each pass that has such rows `take` may ask for
  /// what stands below. `progress(done)` tells tokens read. Returns the model's most likely next
  /// token at each row. Throws Error when rows are no ascending positions of `tokens`.
  std::vector<std::int32_t> read(std::span<const std::int32_t> tokens,
                                 std::span<const std::int64_t> rows,
                                 const std::function<void(const PassRows& rows)>& take,
                                 const std::function<void(std::int64_t done)>& progress = {});

  /// Rotated queries [query_heads * head_dim] of a layer at row `row` of the pass (position minus
  /// PassRows::first), and what attention made of them.
  [[nodiscard]] const float* query(std::int32_t layer, std::int64_t row) const {
    return queries_.data() + offset(layer, row);
  }
  [[nodiscard]] const float* output(std::int32_t layer, std::int64_t row) const {
    return outputs_.data() + offset(layer, row);
  }
  /// Rotated keys, or values, of one KV head at positions [begin, begin + count), the pass's own
  /// included, into out [count, head_dim].
  void read_keys(std::int32_t layer, std::int32_t kv_head, std::int64_t begin, std::int64_t count,
                 float* out);
  void read_values(std::int32_t layer, std::int32_t kv_head, std::int64_t begin, std::int64_t count,
                   float* out);

  [[nodiscard]] const AttentionShape& shape() const { return shape_; }
  [[nodiscard]] const SessionOptions& session() const { return session_.options(); }

 private:
  [[nodiscard]] std::size_t offset(std::int32_t layer, std::int64_t row) const {
    return static_cast<std::size_t>((layer * session_.options().logit_rows + row) *
                                    shape_.out_cols());
  }
  void widen(const std::byte* rows, std::int64_t count, float* out);

  Engine& engine_;
  AttentionShape shape_;
  Session session_;
  std::vector<float> queries_;  // [layers, rows of a pass, query_cols]
  std::vector<float> outputs_;  // the same
  std::vector<std::byte> raw_;  // rows as the cache stores them
};

}  // namespace sedpa
