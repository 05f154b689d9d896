// One token: norm, RoPE, attention of both head classes and commit in one launch.
//
// The keys of all heads stand in one line (attention/decode_split.h); each block takes an equal
// piece of it. A block's warps take the piece's tiles of 16 keys in turn. Each warp has its own
// ring of tiles in shared memory, which it fills itself, and its own online softmax, so that warps
// wait for nobody while they stream; they come together at the end of a unit. All query rows of a
// KV head (up to 16) share one pass over its keys, as the rows of the tensor cores' products.
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/attention/decode_split.h"
#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/kv_rows.cuh"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/tensor_core.cuh"

namespace sedpa::cuda {
namespace {

constexpr int kMostWarps = 4;
constexpr int kMostStages = 3;
constexpr int kPositionBytes = 4 * kDecodeTile;

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

/// Bytes of stored rows [first, first + kDecodeTile) of one head go to `to` as they are, keeping
/// their place within 16 bytes. Nothing beyond row `used` is read.
__device__ void copy_raw(std::uint32_t to, const std::byte* base, std::int64_t first,
                         std::int64_t used, int row_bytes, int lane) {
  const std::byte* begin = base + first * row_bytes;
  const std::int64_t rows = used - first < kDecodeTile ? used - first : kDecodeTile;
  if (rows <= 0) return;
  const int shift = static_cast<int>(reinterpret_cast<std::uintptr_t>(begin) % 16);
  const int bytes = shift + static_cast<int>(rows) * row_bytes;
  for (int at = 16 * lane; at < bytes; at += 16 * 32) {
    copy_16(to + at, begin - shift + at, bytes - at < 16 ? bytes - at : 16);
  }
}

/// 16 rows of raw bytes to a tile of T; rows from `valid` on become zeros.
template <class T, int kDim>
__device__ void convert_rows(const AttentionParams& p, const std::byte* raw, int valid,
                             std::byte* tile, int lane) {
  constexpr int kChunks = kDim / 8;
#pragma unroll 4
  for (int i = lane; i < kDecodeTile * kChunks; i += 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    uint4 numbers = make_uint4(0, 0, 0, 0);
    if (row < valid && 8 * chunk < p.head_dim) {
      numbers = decode_8<T>(p.dtype, raw + row * p.row_bytes, 8 * chunk, p.head_dim);
    }
    *reinterpret_cast<uint4*>(tile + row * kTilePitch<kDim> + 16 * chunk) = numbers;
  }
}

/// 16 keys. `keys_at` and `values_at` are this lane's ldmatrix addresses; `visible` says of this
/// lane's four columns (two of each 8) whether the row sees them.
template <class T, int kDim>
__device__ void step(const std::uint32_t (&queries)[kDim / 16][4], std::uint32_t keys_at,
                     std::uint32_t values_at, const bool (&visible)[4], RowState<kDim>& state) {
  // Two sums each, so that products need not wait for one another so long.
  float scores[2][4] = {};
  float more[2][4] = {};
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    std::uint32_t keys[4];
    load_matrices(keys_at + 32 * k, keys);
    multiply_add<T>(k % 2 == 0 ? scores[0] : more[0], queries[k], keys[0], keys[1]);
    multiply_add<T>(k % 2 == 0 ? scores[1] : more[1], queries[k], keys[2], keys[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = visible[2 * n + i % 2] ? scores[n][i] + more[n][i] : -INFINITY;
    }
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
  std::uint32_t weights[4];
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
#pragma unroll
  for (int n = 0; n < kDim / 16; ++n) {
    std::uint32_t values[4];
    load_matrices_turned(values_at + 32 * n, values);
    multiply_add<T>(state.out[2 * n], weights, values[0], values[1]);
    multiply_add<T>(state.out[2 * n + 1], weights, values[2], values[3]);
  }
}

/// Where a warp's next copy goes on: its place in the line, and the unit there.
struct Cursor {
  std::int64_t tile = 0;
  std::int64_t unit = -1;
  std::int64_t unit_first = 0;  // tile
  std::int64_t unit_end = 0;
  const std::byte* keys = nullptr;  // of the unit's head, slot 0
  const std::byte* values = nullptr;
  const std::int32_t* positions = nullptr;  // of a window class
  std::int32_t used = 0;

  __device__ void find_unit(const AttentionParams& p, const DecodeSplit& split, int row_blocks,
                            std::int32_t past) {
    if (tile < unit_end) return;
    unit = split.unit_of(tile);
    unit_first = split.unit_begin(unit);
    unit_end = split.unit_begin(unit + 1);
    const int which = split.class_of(unit);
    const ClassParams& of = p.classes[which];
    const std::int64_t head = (unit - (which == 0 ? 0 : split.units[0])) / row_blocks;
    keys = of.keys + head * of.capacity * p.row_bytes;
    values = of.values + head * of.capacity * p.row_bytes;
    positions = of.full ? nullptr : p.state.positions[which];
    used = used_slots(of, past);
  }
};

/// Keys and values of the cursor's tile to a stage of the ring.
template <int kDim, bool kRaw>
__device__ void copy_tile(const AttentionParams& p, const Cursor& at, std::uint32_t stage,
                          int half_bytes, int lane) {
  const std::int64_t first = (at.tile - at.unit_first) * kDecodeTile;
  if constexpr (kRaw) {
    copy_raw(stage, at.keys, first, at.used, p.row_bytes, lane);
    copy_raw(stage + half_bytes, at.values, first, at.used, p.row_bytes, lane);
  } else {
    // The tile's rows are contiguous; rows beyond the last used one become zeros.
    constexpr int kChunks = kDim / 8;
    const std::int64_t offset = first * (2 * kDim);
#pragma unroll
    for (int i = 0; i < kDecodeTile * kChunks / 32; ++i) {
      const int chunk = lane + 32 * i;
      const int row = chunk / kChunks;
      const std::uint32_t to = stage + row * kTilePitch<kDim> + chunk % kChunks * 16;
      const int size = first + row < at.used ? 16 : 0;
      const std::int64_t from = size > 0 ? offset + 16 * chunk : 0;
      copy_16(to, at.keys + from, size);
      copy_16(to + half_bytes, at.values + from, size);
    }
  }
  if (at.positions != nullptr && lane < kDecodeTile) {
    const bool there = first + lane < at.used;
    copy_4(stage + 2 * half_bytes + 4 * lane, at.positions + (there ? first + lane : 0),
           there ? 4 : 0);
  }
}

/// Warp by warp to one state, in a fixed order: the upper half of the warps hand theirs to the
/// lower half, and so on. The result is warp 0's.
template <int kDim>
__device__ void merge_warps(RowState<kDim>& state, float* room, int warps, int rows) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int stride = kDim + 2;  // max, sum, out
  for (int half = warps / 2; half > 0; half /= 2) {
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = lane / 4 + 8 * r;
        if (row >= rows) continue;
        float* to = room + ((warp - half) * rows + row) * stride;
        if (lane % 4 == 0) {
          to[0] = state.max[r];
          to[1] = state.sum[r];
        }
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          *reinterpret_cast<float2*>(to + 2 + 8 * n + lane % 4 * 2) =
              make_float2(state.out[n][2 * r], state.out[n][2 * r + 1]);
        }
      }
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = lane / 4 + 8 * r;
        if (row >= rows) continue;
        const float* from = room + (warp * rows + row) * stride;
        const float max = fmaxf(state.max[r], from[0]);
        const float mine = power_of_two(state.max[r] - max);
        const float other = power_of_two(from[0] - max);
        state.max[r] = max;
        state.sum[r] = state.sum[r] * mine + from[1] * other;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          const float2 out = *reinterpret_cast<const float2*>(from + 2 + 8 * n + lane % 4 * 2);
          state.out[n][2 * r] = state.out[n][2 * r] * mine + out.x * other;
          state.out[n][2 * r + 1] = state.out[n][2 * r + 1] * mine + out.y * other;
        }
      }
    }
    __syncthreads();
  }
}

/// The parts of a unit, in the order of its keys, to the result. By the whole block: a thread has
/// two numbers of a row, and asks for all it needs of several parts at once.
template <int kDim>
__device__ void merge_parts(const AttentionParams& p, const DecodeRoom& room, std::int64_t first,
                            int parts, int rows, float* out) {
  constexpr int kAtOnce = 16;
  const float* const from = room.parts + first * room.part_floats;
  for (int i = 2 * static_cast<int>(threadIdx.x); i < rows * kDim;
       i += 2 * static_cast<int>(blockDim.x)) {
    const int row = i / kDim;
    const int d = i % kDim;
    if (d >= p.head_dim) continue;
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
    out[row * p.head_dim + d] = result.x * share;
    out[row * p.head_dim + d + 1] = result.y * share;
  }
}

template <class T, int kDim, bool kRaw>
__global__ void __launch_bounds__(32 * kMostWarps, 1)
    decode_kernel(const __grid_constant__ AttentionParams p,
                  const __grid_constant__ DecodeRoom room) {
  extern __shared__ __align__(128) std::byte shared[];
  __shared__ int last_to_arrive;
  constexpr int kPitch = kTilePitch<kDim>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = room.warps;

  // Shared memory: rings; converted tiles when rows are raw; queries; the own key and value; room
  // for merges, which the preparation of rows uses at other times.
  const std::uint32_t ring = shared_address(shared) + warp * room.stages * room.stage_bytes;
  std::byte* const ring_bytes = shared + warp * room.stages * room.stage_bytes;
  std::byte* at_shared = shared + warps * room.stages * room.stage_bytes;
  std::byte* const tiles = at_shared + warp * (2 * kDecodeTile * kPitch);
  if constexpr (kRaw) at_shared += warps * (2 * kDecodeTile * kPitch);
  std::byte* const query_tile = at_shared;  // [16, pitch]
  std::byte* const own_key = query_tile + kDecodeRows * kPitch;
  std::byte* const own_value = own_key + 2 * kDim;
  float* const merge_room = reinterpret_cast<float*>(own_value + 2 * kDim);

  // Step state and what earlier tokens have stored is older than the kernel in front, which began
  // only when the one before it had ended: neither has to be waited for, only this layer's qkv.
  const std::int32_t past = __ldcg(p.state.past);

  std::int64_t unit_tiles[kHeadClasses];
  std::int64_t units[kHeadClasses];
  for (int i = 0; i < kHeadClasses; ++i) {
    unit_tiles[i] = (used_slots(p.classes[i], past) + kDecodeTile - 1) / kDecodeTile;
    units[i] = std::int64_t{p.classes[i].heads} * room.row_blocks;
  }
  const DecodeSplit split = DecodeSplit::make(unit_tiles, units, room.pieces, kDecodeLeastTiles);
  const std::int64_t piece = blockIdx.x;
  if (piece >= split.pieces) {
    take(p.baton);
    if (threadIdx.x == 0) give(p.baton);
    wait_for_previous();
    return;
  }
  const std::int64_t begin = split.piece_begin(piece);
  const std::int64_t end = split.piece_begin(piece + 1);

  // The ring starts before anything else: it does not depend on this layer's qkv.
  Cursor ahead;
  ahead.tile = begin + warp;
  int fill = 0;  // stage
  bool given = false;
  const auto copy_next = [&] {
    if (ahead.tile < end) {
      ahead.find_unit(p, split, room.row_blocks, past);
      copy_tile<kDim, kRaw>(p, ahead, ring + fill * room.stage_bytes, room.half_bytes, lane);
    }
    end_copy_group();  // an empty one keeps the count
    ahead.tile += warps;
    if (++fill == room.stages) fill = 0;
    if (threadIdx.x == 0 && !given && ahead.tile >= end) {
      give(p.baton);
      given = true;
    }
  };
  take(p.baton);
  for (int i = 0; i < room.stages; ++i) copy_next();

  // Rows and columns that no query fills stay zero.
  for (int i = static_cast<int>(threadIdx.x); i < (kDecodeRows * kPitch + 4 * kDim) / 16;
       i += static_cast<int>(blockDim.x)) {
    reinterpret_cast<uint4*>(query_tile)[i] = make_uint4(0, 0, 0, 0);
  }

  wait_for_previous();
  let_next_begin();

  // ldmatrix addresses of this lane within a tile, keys and values.
  const int key_row = lane % 8 + lane / 16 * 8;
  const int value_row = lane % 16;
  const std::uint32_t key_offset = key_row * kPitch + lane / 8 % 2 * 16;
  const std::uint32_t value_offset = value_row * kPitch + lane / 16 * 16;

  std::int64_t tile = begin + warp;  // this warp's next one
  int use = 0;                       // its stage
  for (std::int64_t unit = split.unit_of(begin); unit < units[0] + units[1]; ++unit) {
    const std::int64_t unit_first = split.unit_begin(unit);
    const std::int64_t unit_end = split.unit_begin(unit + 1);
    if (unit_first >= end) break;
    const int which = split.class_of(unit);
    const ClassParams& of = p.classes[which];
    const std::int64_t in_class = unit - (which == 0 ? 0 : units[0]);
    const int head = static_cast<int>(in_class / room.row_blocks);
    const int first_row = static_cast<int>(in_class % room.row_blocks) * kDecodeRows;
    const int rows = p.group - first_row < kDecodeRows ? p.group - first_row : kDecodeRows;
    const int kv_head = p.kv_head(which, head);
    const bool has_own = end >= unit_end;  // the unit's last tile, and the new token

    // Queries, and the new key and value. (The last unit's merge has ended with a barrier.)
    __syncthreads();
    float* const row_room = merge_room + warp * kDim;
    for (int task = warp; task < rows + (has_own ? 2 : 0); task += warps) {
      const bool key = task == rows;
      const bool value = task == rows + 1;
      const int column = key     ? p.query_heads + kv_head
                         : value ? p.query_heads + p.kv_heads + kv_head
                                 : kv_head * p.group + first_row + task;
      prepare_row(p.qkv + std::int64_t{column} * p.head_dim, p.head_dim,
                  value ? nullptr
                  : key ? p.key_norm
                        : p.query_norm,
                  p.norm_epsilon, p.rotate && !value, p.state, 0, row_room);
      T* to = reinterpret_cast<T*>(query_tile + task * kPitch);
      if (key || value) {
        std::byte* stored = nullptr;
        if (p.commit && first_row == 0) {
          const std::int64_t slot = of.full ? past : p.state.slots[which][0];
          if (slot >= 0) {
            stored = (key ? of.keys : of.values) + (head * of.capacity + slot) * p.row_bytes;
          }
        }
        encode_row(p.dtype, row_room, p.head_dim, stored);
        to = reinterpret_cast<T*>(key ? own_key : own_value);
      }
      const float scale = key || value ? 1.0f : p.scale_log2;
      for (int d = lane; d < p.head_dim; d += 32) to[d] = round_to<T>(row_room[d] * scale);
      __syncwarp();
    }
    __syncthreads();
    std::uint32_t queries[kDim / 16][4];
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      load_matrices(shared_address(query_tile) + value_offset + 32 * k, queries[k]);
    }

    RowState<kDim> state;
    const std::int64_t stop = unit_end < end ? unit_end : end;
    const std::int32_t used = used_slots(of, past);
    for (; tile < stop; tile += warps) {
      wait_copy_groups(room.stages - 1);
      __syncwarp();
      const std::int64_t first = (tile - unit_first) * kDecodeTile;
      const int valid = used - first < kDecodeTile ? static_cast<int>(used - first) : kDecodeTile;
      const std::uint32_t stage = ring + use * room.stage_bytes;
      std::byte* const stage_bytes = ring_bytes + use * room.stage_bytes;
      bool visible[4];
      const int column = lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) visible[i] = column + i / 2 * 8 + i % 2 < valid;
      if (!of.full) {  // what a slot holds, every later query sees, and so does this one
        const auto* positions =
            reinterpret_cast<const std::int32_t*>(stage_bytes + 2 * room.half_bytes);
#pragma unroll
        for (int i = 0; i < 4; ++i) visible[i] &= positions[column + i / 2 * 8 + i % 2] >= 0;
      }
      std::uint32_t keys = stage;
      std::uint32_t values = stage + room.half_bytes;
      if constexpr (kRaw) {
        const auto base = static_cast<std::int64_t>(head) * of.capacity + first;
        const auto shift_of = [&](const std::byte* arena) {
          return reinterpret_cast<std::uintptr_t>(arena + base * p.row_bytes) % 16;
        };
        convert_rows<T, kDim>(p, stage_bytes + shift_of(of.keys), valid, tiles, lane);
        convert_rows<T, kDim>(p, stage_bytes + room.half_bytes + shift_of(of.values), valid,
                              tiles + kDecodeTile * kPitch, lane);
        __syncwarp();
        keys = shared_address(tiles);
        values = keys + kDecodeTile * kPitch;
      }
      step<T, kDim>(queries, keys + key_offset, values + value_offset, visible, state);
      __syncwarp();  // all lanes have read the stage
      copy_next();
      if (++use == room.stages) use = 0;
    }
    if (has_own && tile == unit_end) {
      // The warp whose turn it would be. All 16 rows are the one row; one of them counts.
      const bool visible[4] = {lane % 4 == 0, false, false, false};
      step<T, kDim>(queries, shared_address(own_key) + lane / 8 % 2 * 16,
                    shared_address(own_value) + lane / 16 * 16, visible, state);
    }
    state.close();
    merge_warps(state, merge_room, warps, rows);

    float* const out = p.out + (std::int64_t{kv_head} * p.group + first_row) * p.head_dim;
    const std::int64_t first_piece = split.piece_of(unit_first);
    const std::int64_t last_piece = split.piece_of(unit_end - 1);
    const bool whole = first_piece == last_piece;
    float* const part = room.parts + DecodeSplit::part(piece, unit) * room.part_floats;
    if (warp == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = lane / 4 + 8 * r;
        if (row >= rows) continue;
        const float share = whole ? 1.0f / state.sum[r] : 1.0f;
        float* const to = whole ? out + row * p.head_dim : part + 2 * rows + row * kDim;
        if (!whole && lane % 4 == 0) {
          part[row] = state.max[r];
          part[rows + row] = state.sum[r];
        }
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          const int d = 8 * n + lane % 4 * 2;
          if (d < p.head_dim) {  // even, as d is
            to[d] = state.out[n][2 * r] * share;
            to[d + 1] = state.out[n][2 * r + 1] * share;
          }
        }
      }
    }
    if (whole) continue;
    // Whoever brings the last part merges all of them.
    const int parts = static_cast<int>(last_piece - first_piece) + 1;
    if (warp == 0) {
      __syncwarp();  // the whole warp has written before its first lane says so
      if (lane == 0) {
        last_to_arrive = add_in_order(room.arrived + unit, 1) + 1 == parts;
        if (last_to_arrive) room.arrived[unit] = 0;
      }
    }
    __syncthreads();
    if (last_to_arrive) {
      merge_parts<kDim>(p, room, DecodeSplit::part(first_piece, unit), parts, rows, out);
    }
  }
}

using DecodeKernel = void (*)(AttentionParams, DecodeRoom);

template <class T, bool kRaw>
DecodeKernel kernel_of(int padded) {
  switch (padded) {
    case 64:
      return decode_kernel<T, 64, kRaw>;
    case 80:
      return decode_kernel<T, 80, kRaw>;
    case 96:
      return decode_kernel<T, 96, kRaw>;
    case 128:
      return decode_kernel<T, 128, kRaw>;
    default:
      return decode_kernel<T, 256, kRaw>;
  }
}

DecodeKernel kernel_of(KvDtype dtype, int head_dim) {
  const int padded = padded_head_dim(head_dim);
  const bool raw = !rows_are_tiles(dtype, head_dim);
  if (tiles_are_bf16(dtype)) {
    return raw ? kernel_of<__nv_bfloat16, true>(padded) : kernel_of<__nv_bfloat16, false>(padded);
  }
  return raw ? kernel_of<__half, true>(padded) : kernel_of<__half, false>(padded);
}

}  // namespace

void decode_layout(const AttentionParams& params, std::size_t shared_limit, DecodeRoom& room) {
  const int padded = padded_head_dim(params.head_dim);
  const int pitch = 2 * padded + 16;
  const int tile_bytes = kDecodeTile * pitch;
  const bool raw = !rows_are_tiles(params.dtype, params.head_dim);
  const int rows = params.group < kDecodeRows ? params.group : kDecodeRows;
  room.half_bytes = raw ? (kDecodeTile * params.row_bytes + 16 + 15) / 16 * 16 : tile_bytes;
  room.stage_bytes = 2 * room.half_bytes + kPositionBytes;
  // Half of a multiprocessor's, so that the kernels before and behind are there at the same time,
  // less what is static and the system's.
  const auto limit = static_cast<std::int64_t>(shared_limit) / 2 - 2048;
  room.stages = 0;
  for (int warps = kMostWarps; warps >= 1; warps /= 2) {
    // Half of the warps' states; or a row of each warp.
    std::int64_t merge_floats = std::int64_t{warps} / 2 * rows * (padded + 2);
    if (merge_floats < warps * padded) merge_floats = warps * padded;
    const std::int64_t fixed = (raw ? 2 * warps * tile_bytes : 0) + kDecodeRows * pitch +
                               4 * padded + (4 * merge_floats + 15) / 16 * 16;
    const std::int64_t stages = (limit - fixed) / (std::int64_t{warps} * room.stage_bytes);
    if (stages < (warps > 1 ? 2 : 1)) continue;
    room.warps = warps;
    room.stages = static_cast<int>(stages < kMostStages ? stages : kMostStages);
    room.shared_bytes =
        static_cast<int>(fixed + std::int64_t{warps} * room.stages * room.stage_bytes);
    return;
  }
}

void prepare_decode(KvDtype dtype, int head_dim, std::size_t shared_bytes) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel_of(dtype, head_dim)),
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)));
}

void launch_decode(const AttentionParams& params, const DecodeRoom& room, cudaStream_t stream) {
  const LaunchShape shape{.grid = dim3(room.pieces),
                          .block = dim3(32 * room.warps),
                          .shared_bytes = static_cast<std::size_t>(room.shared_bytes),
                          .stream = stream,
                          .early = true};
  launch(shape, kernel_of(params.dtype, params.head_dim), params, room);
}

}  // namespace sedpa::cuda
