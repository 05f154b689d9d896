// One token: norm, RoPE, attention of both head classes and commit in one launch.
//
// Each block takes a piece of the layer's keys (attention/decode_split.h). A block's warps take the
// piece's tiles of 16 keys in turn. Each warp has its own
// ring of tiles in shared memory, which it fills itself, and its own online softmax, so that warps
// wait for nobody while they stream; they come together at the end of a unit. All query rows of a
// KV head (up to 16) share one pass over its keys, as the rows of the tensor cores' products.
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/backend/cuda/attention_decode.cuh"
#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

constexpr int kMostWarps = 4;
constexpr int kMostStages = 3;
constexpr int kPositionBytes = 4 * kDecodeTile;

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

/// Where `deliver` puts a unit's numbers.
struct ToMemory {
  float* out;   // of the unit
  float* part;  // of the block: max [rows], sum [rows], out [rows, dim]
  int rows;
  int dim;

  __device__ void result(int column, const float2& numbers) const {
    out[column] = numbers.x;
    out[column + 1] = numbers.y;
  }
  __device__ void part_of(int row, int d, float max, float sum, const float2& numbers) const {
    if (d == 0) {
      part[row] = max;
      part[rows + row] = sum;
    }
    *reinterpret_cast<float2*>(part + 2 * rows + row * dim + d) = numbers;
  }
};

/// 16 rows of raw bytes to a tile of T; rows from `valid` on and numbers from `dim` on become
/// zeros.
template <class T, int kDim>
__device__ void convert_rows(KvDtype dtype, const std::byte* raw, int row_bytes, int dim, int valid,
                             std::byte* tile, int lane) {
  constexpr int kChunks = kDim / 8;
#pragma unroll 4
  for (int i = lane; i < kDecodeTile * kChunks; i += 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    uint4 numbers = make_uint4(0, 0, 0, 0);
    if (row < valid && 8 * chunk < dim) {
      numbers = decode_8<T>(dtype, raw + row * row_bytes, 8 * chunk, dim);
    }
    *reinterpret_cast<uint4*>(tile + row * kTilePitch<kDim> + 16 * chunk) = numbers;
  }
}

/// Where a warp's next copy goes on: its place in the piece, and the unit there.
struct Cursor {
  int tile = 0;  // counted through the piece's units
  int unit = -1;
  const std::byte* keys = nullptr;  // of the unit's head, slot 0
  const std::byte* values = nullptr;
  const std::int32_t* positions = nullptr;  // of a window class
  std::int32_t used = 0;

  __device__ void find_unit(const AttentionParams& p, const DecodeSplit::Piece& piece,
                            int row_blocks, std::int32_t past) {
    const int here = piece.first_unit + tile / piece.unit_tiles();
    if (here == unit) return;
    unit = here;
    const ClassParams& of = p.classes[piece.head_class];
    const std::int64_t rows = unit / row_blocks * of.capacity;
    keys = of.keys + rows * of.key_row_bytes;
    values = of.values + rows * of.value_row_bytes;
    positions = of.full ? nullptr : p.state.positions[piece.head_class];
    used = used_slots(of, past);
  }
};

/// Keys and values of the cursor's tile, whose first key is in slot `first`, to a stage of the
/// ring.
template <int kDim, bool kRaw>
__device__ void copy_tile(const ClassParams& of, const Cursor& at, std::int64_t first,
                          std::uint32_t stage, int half_bytes, int lane) {
  if constexpr (kRaw) {
    copy_raw(stage, at.keys, first, at.used, of.key_row_bytes, lane);
    copy_raw(stage + half_bytes, at.values, first, at.used, of.value_row_bytes, lane);
  } else {
    // Rows beyond the last used one become zeros, as what a row has less than a tile's does.
    constexpr int kChunks = kDim / 8;
    const std::byte* const keys = at.keys + first * of.key_row_bytes;
    const std::byte* const values = at.values + first * of.value_row_bytes;
#pragma unroll
    for (int i = 0; i < kDecodeTile * kChunks / 32; ++i) {
      const int row = (lane + 32 * i) / kChunks;
      const int column = (lane + 32 * i) % kChunks * 16;  // bytes
      const std::uint32_t to = stage + row * kTilePitch<kDim> + column;
      const bool there = first + row < at.used;
      const bool key = there && column < of.key_row_bytes;
      const bool value = there && column < of.value_row_bytes;
      copy_16(to, key ? keys + row * of.key_row_bytes + column : at.keys, key ? 16 : 0);
      copy_16(to + half_bytes, value ? values + row * of.value_row_bytes + column : at.values,
              value ? 16 : 0);
    }
  }
  if (at.positions != nullptr && lane < kDecodeTile) {
    const bool there = first + lane < at.used;
    copy_4(stage + 2 * half_bytes + 4 * lane, at.positions + (there ? first + lane : 0),
           there ? 4 : 0);
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

  // Shared memory: rings; converted tiles when rows are raw; queries, the own key and value; room
  // for merges, which the preparation of rows uses at other times.
  const std::uint32_t ring = shared_address(shared) + warp * room.stages * room.stage_bytes;
  std::byte* const ring_bytes = shared + warp * room.stages * room.stage_bytes;
  std::byte* at_shared = shared + warps * room.stages * room.stage_bytes;
  std::byte* const tiles = at_shared + warp * (2 * kDecodeTile * kPitch);
  if constexpr (kRaw) at_shared += warps * (2 * kDecodeTile * kPitch);
  DecodeRows<kDim> rows(at_shared);
  float* const merge_room = reinterpret_cast<float*>(at_shared + DecodeRows<kDim>::kBytes);

  // Step state and what earlier tokens have stored is older than the kernel in front, which began
  // only when the one before it had ended: neither has to be waited for, only this layer's qkv.
  const std::int32_t past = __ldcg(p.state.past);
  const DecodeSplit split = DecodeTiles(p, room.row_blocks, kDecodeTile, past).split(room.pieces);
  const int index = static_cast<int>(blockIdx.x);
  if (index >= split.count()) {
    wait_for_previous();
    return;
  }
  const DecodeSplit::Piece piece = split.piece(index);
  const int unit_tiles = piece.unit_tiles();
  const ClassParams& of = p.classes[piece.head_class];

  // The ring starts before anything else: it does not depend on this layer's qkv.
  Cursor ahead;
  ahead.tile = warp;
  int fill = 0;  // stage
  const auto copy_next = [&] {
    if (ahead.tile < piece.total()) {
      ahead.find_unit(p, piece, room.row_blocks, past);
      const std::int64_t first = piece.first_tile + ahead.tile % unit_tiles;
      copy_tile<kDim, kRaw>(of, ahead, first * kDecodeTile, ring + fill * room.stage_bytes,
                            room.half_bytes, lane);
    }
    end_copy_group();  // an empty one keeps the count
    ahead.tile += warps;
    if (++fill == room.stages) fill = 0;
  };
  for (int i = 0; i < room.stages; ++i) copy_next();

  wait_for_previous();
  let_next_begin();

  // ldmatrix addresses of this lane within a tile, keys and values.
  const std::uint32_t key_offset = (lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * 16;
  const std::uint32_t value_offset = lane % 16 * kPitch + lane / 16 * 16;

  // Units end with this piece's tiles, and with the new token where these are the last.
  const bool has_own = piece.part + 1 == split.parts[piece.head_class];
  const std::int32_t used = used_slots(of, past);
  int tile = warp;  // this warp's next one
  int use = 0;      // its stage
  for (int u = 0; u < piece.units; ++u) {
    const DecodeUnit unit(p, room.row_blocks, piece.head_class, piece.first_unit + u);
    if (u > 0) named_wait(kDecodeBarrier, 32 * warps);  // rows have been asked for
    prepare_unit<T, kDim>(
        p, unit, has_own, past, warps, rows, merge_room,
        [&](const HeadVector& vector, RowKind, float* to) { prepare_row(p, vector, 0, kDim, to); });
    std::uint32_t queries[kDim / 16][4];
    rows.load(queries);

    RowState<kDim> state;
    const int stop = (u + 1) * unit_tiles;
    for (; tile < stop; tile += warps) {
      wait_copy_groups(room.stages - 1);
      __syncwarp();
      const std::int64_t first = std::int64_t{piece.first_tile + tile % unit_tiles} * kDecodeTile;
      const int valid = used - first < kDecodeTile ? static_cast<int>(used - first) : kDecodeTile;
      const std::uint32_t stage = ring + use * room.stage_bytes;
      std::byte* const stage_bytes = ring_bytes + use * room.stage_bytes;
      bool visible[4];
      see_columns(of, valid,
                  reinterpret_cast<const std::int32_t*>(stage_bytes + 2 * room.half_bytes),
                  visible);
      std::uint32_t keys = stage;
      std::uint32_t values = stage + room.half_bytes;
      if constexpr (kRaw) {
        const auto base = static_cast<std::int64_t>(unit.head) * of.capacity + first;
        const auto shift_of = [&](const std::byte* arena, int row_bytes) {
          return reinterpret_cast<std::uintptr_t>(arena + base * row_bytes) % 16;
        };
        convert_rows<T, kDim>(p.dtype, stage_bytes + shift_of(of.keys, of.key_row_bytes),
                              of.key_row_bytes, of.key_dim, valid, tiles, lane);
        convert_rows<T, kDim>(
            p.dtype, stage_bytes + room.half_bytes + shift_of(of.values, of.value_row_bytes),
            of.value_row_bytes, of.value_dim, valid, tiles + kDecodeTile * kPitch, lane);
        __syncwarp();
        keys = shared_address(tiles);
        values = keys + kDecodeTile * kPitch;
      }
      step<T, kDim>(queries, PaddedRows{keys + key_offset}, PaddedRows{values + value_offset},
                    visible, state);
      __syncwarp();  // all lanes have read the stage
      copy_next();
      if (++use == room.stages) use = 0;
    }
    // The warp whose turn it would be.
    if (has_own && tile == stop) attend_to_own<T, kDim>(queries, rows, state);
    state.close();
    const int parts = split.parts[piece.head_class];
    const ToMemory to{.out = p.out + p.out_column(unit.kv_head, unit.first_row),
                      .part = room.parts + blockIdx.x * room.part_floats,
                      .rows = unit.rows,
                      .dim = kDim};
    deliver<kDim>(p, unit, parts, state, warps, merge_room, to);
    if (parts > 1) merge_if_last<kDim>(p, room, unit, piece.part, parts, warps, last_to_arrive);
  }
}

using DecodeKernel = void (*)(AttentionParams, DecodeRoom);

template <class T, bool kRaw>
DecodeKernel kernel_of(int tile_dim) {
  switch (tile_dim) {
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

DecodeKernel kernel_of(KvDtype dtype, int tile_dim, bool raw) {
  if (tiles_are_bf16(dtype)) {
    return raw ? kernel_of<__nv_bfloat16, true>(tile_dim)
               : kernel_of<__nv_bfloat16, false>(tile_dim);
  }
  return raw ? kernel_of<__half, true>(tile_dim) : kernel_of<__half, false>(tile_dim);
}

}  // namespace

void decode_layout(int tile_dim, int group, int converted_bytes, std::size_t shared_bytes,
                   DecodeRoom& room) {
  const int pitch = 2 * tile_dim + 16;
  const int tile_bytes = kDecodeTile * pitch;
  const bool raw = converted_bytes > 0;
  const int rows = group < kDecodeRows ? group : kDecodeRows;
  room.half_bytes = raw ? (kDecodeTile * converted_bytes + 16 + 15) / 16 * 16 : tile_bytes;
  room.stage_bytes = 2 * room.half_bytes + kPositionBytes;
  // Less what is static and the system's.
  const auto limit = static_cast<std::int64_t>(shared_bytes) - 2048;
  room.stages = 0;
  for (int warps = kMostWarps; warps >= 1; warps /= 2) {
    // The warps' states, and at other times a row of each.
    const std::int64_t merge_floats = std::int64_t{warps} * rows * (tile_dim + 2);
    const std::int64_t fixed = (raw ? 2 * warps * tile_bytes : 0) + kDecodeRows * pitch +
                               4 * tile_dim + (4 * merge_floats + 15) / 16 * 16;
    const std::int64_t stages = (limit - fixed) / (std::int64_t{warps} * room.stage_bytes);
    if (stages < (warps > 1 ? 2 : 1)) continue;
    room.warps = warps;
    room.stages = static_cast<int>(stages < kMostStages ? stages : kMostStages);
    room.shared_bytes =
        static_cast<int>(fixed + std::int64_t{warps} * room.stages * room.stage_bytes);
    return;
  }
}

void prepare_decode(KvDtype dtype, int tile_dim, std::size_t shared_bytes) {
  for (const bool raw : {true, false}) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel_of(dtype, tile_dim, raw)),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  }
}

void launch_decode(const AttentionParams& params, const DecodeRoom& room, cudaStream_t stream) {
  const LaunchShape shape{.grid = dim3(room.pieces),
                          .block = dim3(32 * room.warps),
                          .shared_bytes = static_cast<std::size_t>(room.shared_bytes),
                          .stream = stream,
                          .early = true};
  launch(shape, kernel_of(params.dtype, params.tile_dim, !params.whole_pieces), params, room);
}

}  // namespace sedpa::cuda
