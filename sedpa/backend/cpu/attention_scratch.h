#pragma once
// How the scratch memory of CPU attention is divided: one place for planning and for use.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "sedpa/attention/work_list.h"
#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/ops/step.h"

namespace sedpa::cpu {

/// Queries of one tile: about kTileRows rows.
inline std::int64_t tile_tokens(const AttentionShape& shape) {
  return std::max<std::int64_t>(1, kTileRows / shape.group());
}

/// Offsets, in bytes, from the start of the scratch memory; everything begins at a cache line.
struct AttentionScratch {
  std::size_t own_keys = 0;    // [kv_heads, tokens, row bytes], as the cache would hold them
  std::size_t own_values = 0;  // the same
  std::size_t threads = 0;     // one ThreadScratch each, thread_bytes apart
  std::size_t thread_bytes = 0;
  std::size_t partials = 0;  // one PartialRoom each, partial_bytes apart
  std::size_t partial_bytes = 0;
  std::size_t bytes = 0;  // of all

  std::int64_t rows = 0;        // query rows of a tile, at most; a multiple of 16
  std::int64_t dim = 0;         // of a head
  std::int64_t padded_dim = 0;  // rounded up to 16

  AttentionScratch() = default;
  /// Throws Error when the shape is not valid.
  AttentionScratch(const AttentionShape& shape, std::int64_t max_tokens, int thread_count);
};

/// Hands out parts of one stretch of memory, each from a new cache line. From nowhere it hands out
/// null, and tells how much it would have taken.
class Carver {
 public:
  explicit Carver(std::byte* start) : start_(start) {}
  template <class T>
  T* take(std::int64_t count) {
    T* part =  // 64-byte aligned
        start_ == nullptr ? nullptr : reinterpret_cast<T*>(start_ + used_);
    used_ += round_up<std::size_t>(sizeof(T) * static_cast<std::size_t>(count), 64);
    return part;
  }
  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  std::byte* start_;
  std::size_t used_ = 0;
};

/// One thread's room; see QueryTile, KeyTile and DirectRows for the shapes.
struct ThreadScratch {
  ThreadScratch(const AttentionScratch& scratch, std::byte* memory, int thread)
      : ThreadScratch(scratch, Carver(memory + scratch.threads + thread * scratch.thread_bytes)) {}
  ThreadScratch(const AttentionScratch& scratch, Carver carver) {
    const std::int64_t rows = scratch.rows;
    queries = carver.take<Word>(rows * scratch.padded_dim);
    out = carver.take<float>(rows * scratch.padded_dim);
    max = carver.take<float>(rows);
    sum = carver.take<float>(rows);
    position = carver.take<std::int32_t>(rows);
    stride = carver.take<std::int32_t>(rows);
    query_rows = carver.take<const float*>(rows);
    out_rows = carver.take<float*>(rows);
    groups = carver.take<GroupKeys>(ceil_div<std::int64_t>(rows, kGroupRows));
    keys = carver.take<Word>(kKeyTile * scratch.padded_dim);
    values = carver.take<Word>(kKeyTile * scratch.padded_dim);
    scores = carver.take<float>(kKeyTile * kGroupRows);
    weights = carver.take<Word>(kKeyTile * kGroupRows);
    bias = carver.take<float>(kKeyTile * kGroupRows);
    key_rows = carver.take<const std::byte*>(2 * kKeyTile);
    value_rows = carver.take<const std::byte*>(2 * kKeyTile);
    positions = carver.take<std::int32_t>(2 * kKeyTile);
    bytes = carver.used();
  }

  Word* queries;
  float* out;
  float* max;
  float* sum;
  std::int32_t* position;
  std::int32_t* stride;
  const float** query_rows;  // [rows]
  float** out_rows;          // [rows]
  GroupKeys* groups;
  Word* keys;
  Word* values;
  float* scores;
  Word* weights;
  float* bias;
  const std::byte** key_rows;    // [2, kKeyTile]: this step's and the next one's
  const std::byte** value_rows;  // [2, kKeyTile]
  std::int32_t* positions;       // [2, kKeyTile]
  std::size_t bytes;
};
// The direct way takes its room from `scores` and `bias`.
static_assert(kDirectKeys <= kKeyTile && 4 * kDirectRows * kDirectKeys <= kKeyTile * kGroupRows);

/// One partial result.
struct PartialRoom {
  PartialRoom(const AttentionScratch& scratch, std::byte* memory, std::int64_t index)
      : PartialRoom(scratch, Carver(memory + scratch.partials +
                                    static_cast<std::size_t>(index) * scratch.partial_bytes)) {}
  PartialRoom(const AttentionScratch& scratch, Carver carver) {
    max = carver.take<float>(scratch.rows);
    sum = carver.take<float>(scratch.rows);
    out = carver.take<float>(scratch.rows * scratch.padded_dim);
    bytes = carver.used();
  }

  float* max;  // [rows]
  float* sum;  // [rows]
  float* out;  // [rows, padded_dim]
  std::size_t bytes;
};

inline AttentionScratch::AttentionScratch(const AttentionShape& shape, std::int64_t max_tokens,
                                          int thread_count) {
  if (shape.kv_heads < 1 || shape.query_heads < 1 || shape.query_heads % shape.kv_heads != 0 ||
      shape.head_dim < 2 || shape.head_dim % 2 != 0) {
    fail(
        "attention of {} query heads, {} KV heads, head size {}: expected whole groups and an "
        "even size",
        shape.query_heads, shape.kv_heads, shape.head_dim);
  }
  if (max_tokens < 1) fail("attention planned for {} tokens: expected at least 1", max_tokens);
  dim = shape.head_dim;
  padded_dim = round_up<std::int64_t>(dim, 16);
  rows = round_up<std::int64_t>(std::min(tile_tokens(shape), max_tokens) * shape.group(), 16);
  // The widest encoding, so that one plan serves all.
  const auto own = checked_mul<std::int64_t>(
      max_tokens, std::int64_t{shape.kv_heads} * dim * static_cast<std::int64_t>(sizeof(float)));
  if (!own) fail("attention planned for {} tokens: the size overflows", max_tokens);
  thread_bytes = ThreadScratch(*this, Carver(nullptr)).bytes;
  partial_bytes = PartialRoom(*this, Carver(nullptr)).bytes;

  const std::size_t own_bytes = round_up<std::size_t>(static_cast<std::size_t>(*own), 64);
  own_values = own_keys + own_bytes;
  threads = own_values + own_bytes;
  partials = threads + static_cast<std::size_t>(thread_count) * thread_bytes;
  bytes = partials;
  if (thread_count > 1) {
    bytes += static_cast<std::size_t>(max_partials(thread_count)) * partial_bytes;
  }
}

}  // namespace sedpa::cpu
