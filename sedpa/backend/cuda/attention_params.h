#pragma once
// What attention kernels are told, by value, and the functions that launch them. Plain structs and
// integers for host and device.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "sedpa/attention/head_plan.h"
#include "sedpa/backend/cuda/step_state.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

inline constexpr int kMostKvHeads = 128;
inline constexpr int kMostHeadDim = 256;
inline constexpr int kLeastTileDim = 64;

/// Head vectors in 16-bit tiles are padded with zeros to one of these sizes.
constexpr int padded_head_dim(int dim) {
  return dim <= kLeastTileDim ? kLeastTileDim
         : dim <= 80          ? 80
         : dim <= 96          ? 96
         : dim <= 128         ? 128
                              : 256;
}

/// One class of one layer: its heads' keys and values in the cache, and what it keeps.
struct ClassParams {
  std::byte* keys = nullptr;    // [heads, capacity, key_row_bytes]
  std::byte* values = nullptr;  // [heads, capacity, value_row_bytes]
  std::int32_t key_dim = 0;     // numbers of a row: of the widest head's; others' end in zeros
  std::int32_t value_dim = 0;
  std::int32_t key_row_bytes = 0;
  std::int32_t value_row_bytes = 0;
  std::int64_t capacity = 0;
  std::int32_t heads = 0;
  bool full = true;
  std::int32_t sink = 0;
  std::int32_t middle = 0;
  std::int32_t recent = 0;
};

/// How wide a layer's heads are, and so where each stands in a row (LayerShape): half the numbers
/// of all heads before it, since numbers come in pairs.
struct HeadTable {
  std::uint16_t keys[kMostKvHeads + 1] = {};
  std::uint16_t values[kMostKvHeads + 1] = {};
};

struct AttentionParams {
  float* qkv = nullptr;  // [tokens, qkv_stride], queries, keys, values
  std::int64_t qkv_stride = 0;
  float* out = nullptr;  // [tokens, out_stride]
  std::int64_t out_stride = 0;
  const float* query_norm = nullptr;  // [head_dim] or null
  const float* key_norm = nullptr;
  const std::uint8_t* planes = nullptr;  // [kv_heads, head_dim / 2] or null, as LayerShape has them
  float norm_epsilon = 0;
  float scale_log2 = 0;  // scale of the scores times log2 e; queries take it in before they are
                         // rounded, so that a row's largest score minus itself is exactly 0
  std::int32_t query_heads = 0;
  std::int32_t kv_heads = 0;
  std::int32_t group = 0;
  std::int32_t head_dim = 0;  // no head has more numbers
  std::int32_t tile_dim = 0;  // numbers of a tile's row: a head's, then zeros
  KvDtype dtype = KvDtype::f16;
  bool whole_pieces = false;  // stored rows are 16-bit numbers in pieces of 16 bytes, which go to
                              // tiles as they are; others are converted there
  bool rotate = false;
  bool commit = false;
  StepState state;
  ClassParams classes[kHeadClasses];
  std::uint8_t order[kMostKvHeads] = {};  // the model's KV head at each place, class 0 first
  HeadTable table;

  /// Whether some heads see a window only, so that slots have positions.
  [[nodiscard]] constexpr bool has_windows() const {
    for (const ClassParams& of : classes) {
      if (!of.full && of.heads > 0) return true;
    }
    return false;
  }
  /// The model's KV head that is head `i` of a class.
  [[nodiscard]] constexpr int kv_head(int head_class, int i) const {
    return order[head_class == kRetrieval ? i : classes[kRetrieval].heads + i];
  }
  // Of a KV head of the model: numbers of its vectors, and the columns where they stand. A qkv row
  // is all queries, then all keys, then all values.
  [[nodiscard]] constexpr int key_dim(int head) const {
    return 2 * (table.keys[head + 1] - table.keys[head]);
  }
  [[nodiscard]] constexpr int value_dim(int head) const {
    return 2 * (table.values[head + 1] - table.values[head]);
  }
  [[nodiscard]] constexpr int query_column(int head, int query) const {
    return 2 * group * table.keys[head] + query * key_dim(head);
  }
  [[nodiscard]] constexpr int key_column(int head) const {
    return 2 * (group * table.keys[kv_heads] + table.keys[head]);
  }
  [[nodiscard]] constexpr int value_column(int head) const {
    return 2 * ((group + 1) * table.keys[kv_heads] + table.values[head]);
  }
  [[nodiscard]] constexpr int out_column(int head, int query) const {
    return 2 * group * table.values[head] + query * value_dim(head);
  }
};

/// HeadClass::middle_stride as log2, for host and device.
constexpr int middle_shift(const ClassParams& c, std::int32_t p) {
  const std::int32_t last = p - c.recent;
  if (c.full || c.middle == 0 || last < c.sink) return 0;
  int shift = 0;
  while ((last >> shift) + 1 - (c.sink == 0 ? 0 : ((c.sink - 1) >> shift) + 1) > c.middle) ++shift;
  return shift;
}

/// Slots of a class that hold or held something before the chunk: window slots fill in order.
constexpr std::int32_t used_slots(const ClassParams& c, std::int32_t past) {
  return !c.full && c.capacity < past ? static_cast<std::int32_t>(c.capacity) : past;
}

/// The mask of one query row at position p.
struct RowMask {
  std::int32_t p = 0;
  std::int32_t sink = 0;
  std::int32_t recent = 0;
  std::int32_t stride_mask = 0;  // stride - 1, or -1: no middle sample

  static constexpr RowMask make(const ClassParams& c, std::int32_t p) {
    RowMask mask;
    mask.p = p;
    mask.sink = c.full ? 0 : c.sink;
    mask.recent = c.full ? 0x7fffffff : c.recent;
    mask.stride_mask = c.full || c.middle == 0 ? -1 : (1 << middle_shift(c, p)) - 1;
    return mask;
  }
  /// HeadClass::sees; a negative j is no key.
  [[nodiscard]] constexpr bool sees(std::int32_t j) const {
    return j >= 0 && j <= p &&
           (j < sink || p - j < recent || (stride_mask >= 0 && (j & stride_mask) == 0));
  }
};

/// Rows of the chunk that queries of rows [first, last] can see, in three ascending runs: sinks,
/// the middle sample, a plain tail. Rows count from the chunk's start.
struct OwnKeys {
  std::int32_t sinks = 0;
  std::int32_t middle_first = 0;
  std::int32_t middle_stride = 1;
  std::int32_t middle = 0;
  std::int32_t tail_first = 0;
  std::int32_t tail = 0;

  static constexpr OwnKeys make(const ClassParams& c, std::int32_t past, std::int32_t first,
                                std::int32_t last) {
    OwnKeys keys;
    if (c.full) {
      keys.tail = last + 1;
      return keys;
    }
    const std::int32_t in_sink = c.sink - past;  // may be below 0 or beyond the chunk
    keys.sinks = in_sink < 0 ? 0 : in_sink < last + 1 ? in_sink : last + 1;
    const std::int32_t old_end = first - c.recent + 1;  // older than the first row's recent keys
    keys.tail_first = old_end > keys.sinks ? old_end : keys.sinks;
    keys.tail = last + 1 - keys.tail_first;
    if (c.middle > 0 && old_end > keys.sinks) {
      const int shift = middle_shift(c, past + first);
      const std::int32_t from = past + keys.sinks;
      keys.middle_stride = 1 << shift;
      keys.middle_first = (((from - 1) >> shift) + 1) * keys.middle_stride - past;
      if (keys.middle_first < old_end) {
        keys.middle = ((old_end - 1 - keys.middle_first) >> shift) + 1;
      }
    }
    return keys;
  }
  [[nodiscard]] constexpr std::int32_t count() const { return sinks + middle + tail; }
  [[nodiscard]] constexpr std::int32_t row(std::int32_t i) const {
    if (i < sinks) return i;
    i -= sinks;
    if (i < middle) return middle_first + i * middle_stride;
    return tail_first + (i - middle);
  }
};

// --- One token --------------------------------------------------------------------------------

inline constexpr int kDecodeTile = 16;       // keys: one step of a warp
inline constexpr int kDecodeLeastKeys = 64;  // of a part of a unit
inline constexpr int kDecodeUnitKeys = 256;  // whose time a unit more in a piece takes
inline constexpr int kDecodeRows = 16;       // query rows of a unit

/// Where parts of units go, and how a block's shared memory is laid out (decode_layout).
struct DecodeRoom {
  float* parts = nullptr;  // [pieces] parts: max [rows], sum [rows], out [rows, padded dim]
  std::int64_t part_floats = 0;
  std::int32_t* arrived = nullptr;  // [units], parts done; zero between launches
  std::int32_t pieces = 0;          // the grid
  std::int32_t row_blocks = 0;      // units of a head
  std::int32_t warps = 0;
  std::int32_t stages = 0;       // of each warp's ring
  std::int32_t stage_bytes = 0;  // keys, values, positions
  std::int32_t half_bytes = 0;   // the keys of a stage; the values
  std::int32_t shared_bytes = 0;
};

constexpr bool is_16_bit(KvDtype dtype) { return dtype == KvDtype::f16 || dtype == KvDtype::bf16; }
/// Tiles hold f16, or bf16 where the cache holds numbers of its range.
constexpr bool tiles_are_bf16(KvDtype dtype) {
  return dtype == KvDtype::bf16 || dtype == KvDtype::f32;
}

/// Lays out a block for tiles of up to `tile_dim` numbers a row; converted_bytes: of a stored row
/// that is converted, 0 where rows come in whole pieces. stages = 0 when it does not fit.
void decode_layout(int tile_dim, int group, int converted_bytes, std::size_t shared_bytes,
                   DecodeRoom& room);
/// To be called once for a dtype and tile, before any capture.
void prepare_decode(KvDtype dtype, int tile_dim, std::size_t shared_bytes);
void launch_decode(const AttentionParams& params, const DecodeRoom& room, cudaStream_t stream);

// --- Many tokens ------------------------------------------------------------------------------

/// A chunk's own rows in 16 bits, as tiles want them: queries by KV head, so that a tile of query
/// rows is one range; keys and values as the cache would hold them.
struct PrefillRoom {
  std::uint16_t* queries = nullptr;  // [kv_heads, tokens * group, tile_dim]
  std::uint16_t* keys = nullptr;     // [kv_heads, tokens, tile_dim]
  std::uint16_t* values = nullptr;   // [kv_heads, tokens, tile_dim]
  std::int32_t tokens = 0;
  std::int32_t past = 0;
  std::int32_t heads_together = 1;  // blocks of so many KV heads run side by side
};

/// Norm, RoPE and rounding of a chunk into `room`; full classes' rows also into the cache when
/// params.commit.
void launch_stage(const AttentionParams& params, const PrefillRoom& room, cudaStream_t stream);
/// Attention of all heads, or of all but those of the first class.
void launch_prefill(const AttentionParams& params, const PrefillRoom& room, bool second_class_only,
                    cudaStream_t stream);
/// Whether launch_prefill_sm90 is there for this device, and built for it.
bool prefill_sm90_runs(int compute);
/// Whether it takes the first class's heads.
bool prefill_sm90_takes(const AttentionParams& params);
/// Attention of the first class's heads, a full class.
void launch_prefill_sm90(const AttentionParams& params, const PrefillRoom& room,
                         cudaStream_t stream);
/// Norm and RoPE in place.
void launch_rope(const AttentionParams& params, std::int64_t tokens, cudaStream_t stream);
/// Rows of the classes asked for to their slots; keys normed and rotated on the way when params say
/// so.
void launch_commit(const AttentionParams& params, std::int64_t tokens, bool full_classes,
                   bool window_classes, cudaStream_t stream);

}  // namespace sedpa::cuda
