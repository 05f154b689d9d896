#pragma once
// One token's attention, as far as it is the same for all kernels that do it: 16 query rows of a KV
// head against tiles of its keys, by warps that come together at the end. For .cu files.
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/attention/decode_split.h"
#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/kv_rows.cuh"
#include "sedpa/backend/cuda/tensor_core.cuh"

namespace sedpa::cuda {

/// The hardware barrier of the threads that attend.
inline constexpr int kDecodeBarrier = 1;

/// Online softmax of 16 query rows, in the layout of the tensor cores' accumulators: a lane has
/// rows lane / 4 and lane / 4 + 8, and of each 8 columns the two at lane % 4 * 2.
template <int kDim>
struct RowState {
  float max[2] = {kNoScore, kNoScore};
  float sum[2] = {};  // over this lane's columns until `close`
  float out[kDim / 8][4] = {};

  __device__ void close() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }
};

/// Scores of 16 keys become weights, in the tensor cores' layout; `visible` says of this lane's
/// four columns (two of each 8) whether the row sees them.
template <class T, int kDim>
__device__ __forceinline__ void weigh(float (&scores)[2][4], const bool (&visible)[4],
                                      RowState<kDim>& state, std::uint32_t (&weights)[4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = visible[2 * n + i % 2] ? scores[n][i] : -INFINITY;
  }
  float max[2];
  bool grew = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    max[r] = fmaxf(fmaxf(scores[0][2 * r], scores[0][2 * r + 1]),
                   fmaxf(scores[1][2 * r], scores[1][2 * r + 1]));
    max[r] = fmaxf(max[r], __shfl_xor_sync(~0u, max[r], 1));
    max[r] = fmaxf(max[r], __shfl_xor_sync(~0u, max[r], 2));
    max[r] = fmaxf(max[r], state.max[r]);
    grew |= max[r] > state.max[r];
  }
  if (__any_sync(~0u, grew)) {  // rare after the first keys
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float keep = power_of_two(state.max[r] - max[r]);
      state.max[r] = max[r];
      state.sum[r] *= keep;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        state.out[n][2 * r] *= keep;
        state.out[n][2 * r + 1] *= keep;
      }
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float a = power_of_two(scores[n][2 * r] - state.max[r]);
      const float b = power_of_two(scores[n][2 * r + 1] - state.max[r]);
      state.sum[r] += a + b;
      weights[2 * n + r] = pack<T>(a, b);
    }
  }
}

/// 16 keys. `keys_at(i)` and `values_at(i)` are this lane's ldmatrix addresses for columns 16 i ..
/// 16 i + 15. Only the first key_dim and value_dim columns are there, where they are fewer.
template <class T, int kDim, class Address>
__device__ __forceinline__ void step(const std::uint32_t (&queries)[kDim / 16][4],
                                     const Address& keys_at, const Address& values_at,
                                     const bool (&visible)[4], RowState<kDim>& state,
                                     int key_dim = kDim, int value_dim = kDim) {
  // Two sums each, so that products need not wait for one another so long.
  float scores[2][4] = {};
  float more[2][4] = {};
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    if (16 * k >= key_dim) break;
    std::uint32_t keys[4];
    load_matrices(keys_at(k), keys);
    multiply_add<T>(k % 2 == 0 ? scores[0] : more[0], queries[k], keys[0], keys[1]);
    multiply_add<T>(k % 2 == 0 ? scores[1] : more[1], queries[k], keys[2], keys[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] += more[n][i];
  }
  std::uint32_t weights[4];
  weigh<T, kDim>(scores, visible, state, weights);
#pragma unroll
  for (int n = 0; n < kDim / 16; ++n) {
    if (16 * n >= value_dim) break;
    std::uint32_t values[4];
    load_matrices_turned(values_at(n), values);
    multiply_add<T>(state.out[2 * n], weights, values[0], values[1]);
    multiply_add<T>(state.out[2 * n + 1], weights, values[2], values[3]);
  }
}

/// The parts of a unit, in the order of its keys, to the result. By the whole block: a thread has
/// two numbers of a row, and asks for all it needs of several parts at once. out: [rows, dim].
template <int kDim>
__device__ void merge_parts(const DecodeRoom& room, std::int64_t first, int parts, int rows,
                            int threads, int dim, float* out) {
  constexpr int kAtOnce = 16;
  const float* const from = room.parts + first * room.part_floats;
  for (int i = 2 * own_thread(); i < rows * kDim; i += 2 * threads) {
    const int row = i / kDim;
    const int d = i % kDim;
    if (d >= dim) continue;
    float max = kNoScore;
    float sum = 0;
    float2 result = make_float2(0, 0);
    for (int begin = 0; begin < parts; begin += kAtOnce) {
      float part_max[kAtOnce];
      float part_sum[kAtOnce];
      float2 part_out[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const bool there = begin + k < parts;
        const float* const part = from + (begin + k) * room.part_floats;
        part_max[k] = there ? __ldcg(part + row) : kNoScore;
        part_sum[k] = there ? __ldcg(part + rows + row) : 0.0f;
        part_out[k] = there ? __ldcg(reinterpret_cast<const float2*>(part + 2 * rows + i))
                            : make_float2(0, 0);
      }
      float high = max;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) high = fmaxf(high, part_max[k]);
      const float keep = power_of_two(max - high);
      max = high;
      sum *= keep;
      result.x *= keep;
      result.y *= keep;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const float weight = power_of_two(part_max[k] - max);
        sum += weight * part_sum[k];
        result.x += weight * part_out[k].x;
        result.y += weight * part_out[k].y;
      }
    }
    const float share = 1.0f / sum;
    out[row * dim + d] = result.x * share;
    out[row * dim + d + 1] = result.y * share;
  }
}

/// This lane's ldmatrix addresses in rows of one pitch.
struct PaddedRows {
  std::uint32_t at = 0;
  __device__ std::uint32_t operator()(int columns) const { return at + 32 * columns; }
};

/// A unit: a KV head, or 16 query rows of one.
struct DecodeUnit {
  int number = 0;  // of all units
  int which = 0;   // class
  int head = 0;    // of the class
  int kv_head = 0;
  int first_row = 0;  // of the group
  int rows = 0;

  /// Seldom a division, which takes a hundred cycles.
  __device__ static int head_of(int unit, int row_blocks) {
    return row_blocks == 1 ? unit : unit / row_blocks;
  }
  /// Unit `unit` of class `head_class`.
  __device__ DecodeUnit(const AttentionParams& p, int row_blocks, int head_class, int unit)
      : number(unit + (head_class == 0 ? 0 : p.classes[0].heads * row_blocks)),
        which(head_class),
        head(head_of(unit, row_blocks)),
        first_row((unit - head * row_blocks) * kDecodeRows) {
    rows = p.group - first_row < kDecodeRows ? p.group - first_row : kDecodeRows;
    kv_head = p.kv_head(which, head);
  }
};

/// A layer's keys in tiles of so many.
struct DecodeTiles {
  std::int32_t keys = 0;  // of a tile
  std::int32_t tiles[kHeadClasses] = {};
  std::int32_t units[kHeadClasses] = {};

  DecodeTiles() = default;
  __device__ DecodeTiles(const AttentionParams& p, int row_blocks, int tile_keys, std::int32_t past)
      : keys(tile_keys) {
    for (int i = 0; i < kHeadClasses; ++i) {
      tiles[i] = (used_slots(p.classes[i], past) + tile_keys - 1) / tile_keys;
      units[i] = p.classes[i].heads * row_blocks;
    }
  }
  bool operator==(const DecodeTiles&) const = default;
  /// Cut into at most `most_pieces`.
  [[nodiscard]] __device__ DecodeSplit split(int most_pieces) const {
    return DecodeSplit::make(tiles, units, most_pieces, kDecodeLeastKeys / keys,
                             kDecodeUnitKeys / keys);
  }
};

/// What a unit's keys are tried with, in shared memory.
template <int kDim>
struct DecodeRows {
  static constexpr int kPitch = kTilePitch<kDim>;
  static constexpr int kBytes = kDecodeRows * kPitch + 4 * kDim;
  std::byte* queries = nullptr;  // [16, pitch]; what is in rows of no query reaches no result
  std::byte* own_key = nullptr;  // [kDim]
  std::byte* own_value = nullptr;

  __device__ explicit DecodeRows(std::byte* at)
      : queries(at),
        own_key(at + kDecodeRows * kPitch),
        own_value(at + kDecodeRows * kPitch + 2 * kDim) {}
  /// The queries as the tensor cores take them. By a warp.
  __device__ void load(std::uint32_t (&to)[kDim / 16][4]) const {
    const int lane = own_thread() % 32;
    const std::uint32_t row = shared_address(queries) + lane % 16 * kPitch + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) load_matrices(row + 32 * k, to[k]);
  }
};

enum class RowKind { query, key, value };

/// A unit's queries, normed, rotated and scaled; `own`: the new key and value too, which go to the
/// cache as well. row_room: f32 [warps, kDim]. prepare(vector, kind, room): brings a vector there.
/// Ends with a barrier.
template <class T, int kDim, class Prepare>
__device__ void prepare_unit(const AttentionParams& p, const DecodeUnit& unit, bool own,
                             std::int32_t past, int warps, const DecodeRows<kDim>& to,
                             float* row_room, const Prepare& prepare) {
  const int thread = own_thread();
  const int warp = thread / 32;
  const int lane = thread % 32;
  const ClassParams& of = p.classes[unit.which];
  float* const room = row_room + warp * kDim;
  for (int task = warp; task < unit.rows + (own ? 2 : 0); task += warps) {
    const bool key = task == unit.rows;
    const bool value = task == unit.rows + 1;
    const HeadVector vector = key     ? HeadVector::key(p, unit.kv_head)
                              : value ? HeadVector::value(p, unit.kv_head)
                                      : HeadVector::query(p, unit.kv_head, unit.first_row + task);
    prepare(vector, key ? RowKind::key : value ? RowKind::value : RowKind::query, room);
    T* row = reinterpret_cast<T*>(to.queries + task * DecodeRows<kDim>::kPitch);
    if (key || value) {
      std::byte* stored = nullptr;
      if (p.commit && unit.first_row == 0) {
        const std::int64_t slot = of.full ? past : p.state.slots[unit.which][0];
        if (slot >= 0) stored = stored_row(of, value, unit.head, slot);
      }
      encode_row(p.dtype, room, key ? of.key_dim : of.value_dim, stored);
      row = reinterpret_cast<T*>(key ? to.own_key : to.own_value);
    }
    const float scale = key || value ? 1.0f : p.scale_log2;
#pragma unroll
    for (int d = lane; d < kDim; d += 32) row[d] = round_to<T>(room[d] * scale);
    __syncwarp();
  }
  named_wait(kDecodeBarrier, 32 * warps);
}

/// Which of this lane's four columns of a tile a query may see: those of the first `valid` keys;
/// of a window class, those whose slot still holds a position: what a slot holds, every later query
/// sees, and so does this one. positions: of the tile's keys.
__device__ inline void see_columns(const ClassParams& of, int valid, const std::int32_t* positions,
                                   bool (&visible)[4]) {
  const int column = own_thread() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) visible[i] = column + i / 2 * 8 + i % 2 < valid;
  if (of.full) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) visible[i] &= positions[column + i / 2 * 8 + i % 2] >= 0;
}

/// The new token's own key and value. By one warp.
template <class T, int kDim>
__device__ void attend_to_own(const std::uint32_t (&queries)[kDim / 16][4],
                              const DecodeRows<kDim>& rows, RowState<kDim>& state) {
  const int lane = own_thread() % 32;
  // All 16 rows are the one row; one of them counts.
  const bool visible[4] = {lane % 4 == 0, false, false, false};
  step<T, kDim>(queries, PaddedRows{shared_address(rows.own_key) + lane / 8 % 2 * 16},
                PaddedRows{shared_address(rows.own_value) + lane / 16 * 16}, visible, state);
}

/// The warps' states of a unit become one: its result, or, when other pieces have parts of the unit
/// too, a part. By all warps. states: f32 [warps, rows, kDim + 2] in shared memory.
/// to.result(column, numbers): two of the result, from `column` of the unit's on.
/// to.part_of(row, d, max, sum, numbers): two of a row of a part, from d on; its max and sum.
template <int kDim, class To>
__device__ void deliver(const AttentionParams& p, const DecodeUnit& unit, int parts,
                        const RowState<kDim>& state, int warps, float* states, const To& to) {
  constexpr int kStride = kDim + 2;  // max, sum, out
  const int thread = own_thread();
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int rows = unit.rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + 8 * r;
    if (row >= rows) continue;
    float* const own = states + (warp * rows + row) * kStride;
    if (lane % 4 == 0) {
      own[0] = state.max[r];
      own[1] = state.sum[r];
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(own + 2 + 8 * n + lane % 4 * 2) =
          make_float2(state.out[n][2 * r], state.out[n][2 * r + 1]);
    }
  }
  named_wait(kDecodeBarrier, 32 * warps);

  const int dim = p.value_dim(unit.kv_head);
  for (int i = 2 * own_thread(); i < rows * kDim; i += 64 * warps) {
    const int row = i / kDim;
    const int d = i % kDim;
    const float* const from = states + row * kStride;
    float max = kNoScore;
    for (int w = 0; w < warps; ++w) max = fmaxf(max, from[w * rows * kStride]);
    float sum = 0;
    float2 result = make_float2(0, 0);
    for (int w = 0; w < warps; ++w) {
      const float* const other = from + w * rows * kStride;
      const float weight = power_of_two(other[0] - max);
      const float2 numbers = *reinterpret_cast<const float2*>(other + 2 + d);
      sum += weight * other[1];
      result.x += weight * numbers.x;
      result.y += weight * numbers.y;
    }
    if (parts > 1) {
      to.part_of(row, d, max, sum, result);
    } else if (d < dim) {  // even, as d is
      to.result(row * dim + d, make_float2(result.x / sum, result.y / sum));
    }
  }
}

/// Behind `deliver` of one of several parts: whoever brings the last merges them. By all warps.
/// last: of the block, in shared memory.
template <int kDim>
__device__ void merge_if_last(const AttentionParams& p, const DecodeRoom& room,
                              const DecodeUnit& unit, int part, int parts, int warps, int& last) {
  named_wait(kDecodeBarrier, 32 * warps);
  if (threadIdx.x == 0) {
    last = add_in_order(room.arrived + unit.number, 1) + 1 == parts;
    if (last) room.arrived[unit.number] = 0;
  }
  named_wait(kDecodeBarrier, 32 * warps);
  if (last) {
    merge_parts<kDim>(room, static_cast<int>(blockIdx.x) - part, parts, unit.rows, 32 * warps,
                      p.value_dim(unit.kv_head),
                      p.out + p.out_column(unit.kv_head, unit.first_row));
  }
}

}  // namespace sedpa::cuda
