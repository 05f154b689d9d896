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
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
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
    deliver<kDim>(p, phase.room, unit, piece.part, parts, state, kWarps, room.work(), room.last());
  }
  return at;
}

#endif

}  // namespace sedpa::cuda::program
