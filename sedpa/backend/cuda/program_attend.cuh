#pragma once
// Attention of one token, by all threads that compute: tiles of keys and values from the ring, 16
// keys a warp.
#include <cstdint>
#include <type_traits>

#include "sedpa/backend/cuda/program_room.cuh"
#include "sedpa/backend/cuda/tile_map.h"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// ldmatrix addresses of a row of a box: lines of 64 columns, kLines a row, swizzled by 128 bytes.
template <int kLines>
struct SwizzledRows {
  std::uint32_t row_at = 0;  // of its first line
  std::uint32_t turn = 0;    // that line % 8
  std::uint32_t odd = 0;     // 0, 1: which 8 of 16 columns
  __device__ SwizzledRows(std::uint32_t tile, int /*dim*/, int row, int second)
      : row_at(tile + 128 * kLines * row), turn(kLines * row % 8), odd(second) {}
  __device__ std::uint32_t operator()(int columns) const {
    const std::uint32_t chunk = 2 * columns + odd;
    const std::uint32_t line = chunk / 8;
    return row_at + 128 * line + ((chunk % 8 ^ (turn + line)) << 4);
  }
};

/// The same for rows of any `dim` numbers that row_map takes.
struct ThinRows {
  std::uint32_t tile = 0;
  std::uint32_t offset = 0;  // of the row, before the swizzle
  std::uint32_t swizzle = 0;
  __device__ ThinRows(std::uint32_t at, int dim, int row, int second)
      : tile(at), offset(2 * dim * row + 16 * second), swizzle(row_swizzle(dim)) {}
  __device__ std::uint32_t operator()(int columns) const {
    const std::uint32_t place = offset + 32 * columns;
    return tile + (place ^ (place >> 3 & swizzle));
  }
};

/// The parts of a unit, in the order of its keys, to the result, once all are there: each CTA that
/// has one merges its share of the numbers. Four numbers at a time, by some threads side by side
/// that ask for a few parts each, all at once.
template <int kDim>
__device__ inline void merge_share(const AttentionPhase& phase, const DecodeUnit& unit, int part,
                                   int parts) {
  constexpr int kRowQuads = kDim / 4;
  constexpr int kAtOnce = 5;  // parts of a lane: as many CTAs as there are have one each
  const AttentionParams& p = phase.params;
  const DecodeRoom& room = phase.room;
  std::int32_t* const arrived = phase.arrived + unit.number;
  join();  // this CTA's part is written
  if (threadIdx.x == 0) come(arrived);
  // As many lanes as parts, up to a warp, share four numbers.
  const int lanes_log2 = parts > 16 ? 5 : 32 - __clz(parts - 1);
  const int lanes = 1 << lanes_log2;
  const int thread = own_thread();
  const int lane = thread & (lanes - 1);
  const int rows = unit.rows;
  const int end = rows * kRowQuads * (part + 1) / parts;
  int quad = rows * kRowQuads * part / parts + (thread >> lanes_log2);
  const float* const from = room.parts + (static_cast<int>(blockIdx.x) - part) * room.part_floats;
  const int dim = p.value_dim(unit.kv_head);
  float* const out = p.out + p.out_column(unit.kv_head, unit.first_row);
  await(arrived, parts);
#pragma unroll 1
  for (; __any_sync(~0u, quad < end); quad += kProgramThreads >> lanes_log2) {
    const int row = quad / kRowQuads;
    const int d = quad % kRowQuads * 4;
    float max = kNoScore;
    float sum = 0;
    float result[4] = {};
#pragma unroll 1
    for (int begin = lane; begin < parts; begin += kAtOnce * lanes) {
      float part_max[kAtOnce];
      float part_sum[kAtOnce];
      float2 part_out[kAtOnce][2];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const bool there = begin + k * lanes < parts && quad < end;
        const float* const of = from + (begin + k * lanes) * room.part_floats;
        part_max[k] = there ? __ldcg(of + row) : kNoScore;
        part_sum[k] = there ? __ldcg(of + rows + row) : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const auto* const two = reinterpret_cast<const float2*>(of + 2 * rows + 4 * quad + 2 * i);
          part_out[k][i] = there ? __ldcg(two) : make_float2(0, 0);
        }
      }
      float high = max;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) high = fmaxf(high, part_max[k]);
      const float keep = power_of_two(max - high);
      max = high;
      sum *= keep;
#pragma unroll
      for (float& number : result) number *= keep;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const float weight = power_of_two(part_max[k] - max);
        sum += weight * part_sum[k];
        result[0] += weight * part_out[k][0].x;
        result[1] += weight * part_out[k][0].y;
        result[2] += weight * part_out[k][1].x;
        result[3] += weight * part_out[k][1].y;
      }
    }
    float high = max;
#pragma unroll 1
    for (int i = lanes / 2; i > 0; i /= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, i));
    const float weight = power_of_two(max - high);
    sum *= weight;
#pragma unroll
    for (float& number : result) number *= weight;
#pragma unroll 1
    for (int i = lanes / 2; i > 0; i /= 2) {
      sum += __shfl_xor_sync(~0u, sum, i);
#pragma unroll
      for (float& number : result) number += __shfl_xor_sync(~0u, number, i);
    }
    if (lane == 0 && quad < end && d < dim) {
      const float share = 1.0f / sum;
#pragma unroll
      for (int i = 0; i < 4; ++i) out[row * dim + d + i] = result[i] * share;
    }
  }
}

/// How tiles of 16-bit numbers are taken. kThin: rows of fewer numbers than kDim; what is missing
/// is neither copied nor multiplied.
template <class Number, int kTileDim, bool kThin>
struct PlainTiles {
  using T = Number;
  static constexpr int kDim = kTileDim;
  using Rows = std::conditional_t<kThin, ThinRows, SwizzledRows<kDim / 64>>;
  using Queries = std::uint32_t[kDim / 16][4];

  const ClassParams& of;
  int key_dim;
  int value_dim;

  __device__ PlainTiles(const ClassParams& in, int /*head*/)
      : of(in), key_dim(kThin ? in.key_dim : kDim), value_dim(kThin ? in.value_dim : kDim) {}
  __device__ void load(const DecodeRows<kDim>& rows, Queries& queries) const { rows.load(queries); }
  /// 16 keys of a stage from `first` on, `valid` of which are there. positions: of the 16.
  __device__ __forceinline__ void step(const Queries& queries, const std::byte* stage, int first,
                                       int valid, const std::int32_t* positions,
                                       RowState<kDim>& state) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    bool visible[4];
    see_columns(of, valid, positions, visible);
    const std::uint32_t keys = shared_address(stage);
    cuda::step<T, kDim>(queries,
                        Rows(keys, key_dim, first + lane % 8 + lane / 16 * 8, lane / 8 % 2),
                        Rows(keys + kProgramTileBytes, value_dim, first + lane % 16, lane / 16),
                        visible, state, key_dim, value_dim);
  }
  __device__ void finish(RowState<kDim>& /*state*/) const {}
  __device__ void attend_to_own(const Queries& queries, const DecodeRows<kDim>& rows,
                                RowState<kDim>& state) const {
    cuda::attend_to_own<T, kDim>(queries, rows, state);
  }
};

template <class Tiles>
__device__ __forceinline__ Place attend(const AttentionPhase& phase, const AttentionShare& share,
                                        const Room& room, std::int32_t wanted, Place at) {
  using T = typename Tiles::T;
  constexpr int kDim = Tiles::kDim;
  constexpr int kKeys = program_tile_keys(kDim);
  constexpr int kGroups = kKeys / 16;       // warps that share a tile, 16 keys each
  constexpr int kTeams = kWarps / kGroups;  // that take tiles in turn
  static_assert(kGroups * kTeams == kWarps);
  const AttentionParams& p = phase.params;
  const int thread = own_thread();
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int group = warp % kGroups;
  const int team = warp / kGroups;
  const std::int32_t past = __ldcg(p.state.past);
  DecodeRows<kDim> rows(room.at + room.offsets.rows);
  rows.clear(kProgramThreads);
  await(room.p.met, wanted);
  if (share.parts == 0) return at;
  const DecodeSplit::Piece piece = share.piece;
  const int parts = share.parts;
  const ClassParams& of = p.classes[piece.head_class];
  const std::int32_t used = used_slots(of, past);
  const bool has_own = piece.part + 1 == parts;
  for (int u = 0; u < piece.units; ++u) {
    const DecodeUnit unit(p, phase.room.row_blocks, piece.head_class, piece.first_unit + u);
    prepare_unit<T, kDim>(p, unit, has_own, past, kWarps, rows, room.work());
    std::uint32_t queries[kDim / 16][4];
    const Tiles tiles(of, unit.head);
    tiles.load(rows, queries);
    RowState<kDim> state;
    for (int tile = piece.first_tile; tile < piece.end_tile; ++tile) {
      wait_barrier(room.stage_there(at.index), at.parity);
      if (tile % kTeams == team) {
        const std::int32_t first = tile * kKeys + 16 * group;
        tiles.step(queries, room.stage(at.index), 16 * group, used - first,
                   room.positions(at.index) + 16 * group, state);
      }
      __syncwarp();  // all lanes have read the stage
      if (lane == 0) arrive(room.stage_read(at.index));
      at.next(room.p.stages);
    }
    tiles.finish(state);
    if (has_own && warp == 0) tiles.attend_to_own(queries, rows, state);
    state.close();
    deliver<kDim>(p, phase.room, unit, parts, state, kWarps, room.work());
    if (parts > 1) merge_share<kDim>(phase, unit, piece.part, parts);
  }
  return at;
}

#endif

}  // namespace sedpa::cuda::program
