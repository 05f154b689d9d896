// Many tokens: attention of both head classes in one launch, after FlashAttention-2 (Dao, arXiv
// 2307.08691). A block takes 128 query rows of one KV head (token by token, its group's queries
// beside each other) through the keys that they can see: first stored ones, then the chunk's own
// from scratch (launch_stage). Window classes list their own keys by arithmetic (OwnKeys), so that
// their work is linear in the chunk's length. Works from compute capability 8.0 on.
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/kv_rows.cuh"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/prefill_block.h"
#include "sedpa/backend/cuda/tensor_core.cuh"

namespace sedpa::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16 * kWarps;  // query rows of a block
constexpr int kKeys = 64;           // of a tile

/// Shared memory: two tiles each of keys and values, and where their keys stand.
template <int kDim>
struct Tiles {
  std::byte keys[2][kKeys * kTilePitch<kDim>];
  std::byte values[2][kKeys * kTilePitch<kDim>];
  std::int32_t positions[2][kKeys];  // -1: no key
};

/// Asks for a tile: copies come later (end_copy_group), converted rows are there at once.
template <class T, int kDim>
__device__ void load_tile(const AttentionParams& p, const PrefillRoom& scratch,
                          const PrefillBlock& block, int tile, Tiles<kDim>& tiles, int stage) {
  constexpr int kChunks = kDim / 8;
  constexpr int kPasses = (kKeys * kChunks + kThreads - 1) / kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const ClassParams& of = p.classes[block.head_class];
  const bool stored = tile < block.stored_tiles;
  const int first = (stored ? tile : tile - block.stored_tiles) * kKeys;
  const int count = stored ? block.stored : block.own.count();
  const std::uint32_t keys = shared_address(tiles.keys[stage]);
  const std::uint32_t values = shared_address(tiles.values[stage]);

  if (thread < kKeys) {
    const int i = first + thread;
    std::int32_t* const to = &tiles.positions[stage][thread];
    if (i >= count) {
      *to = -1;
    } else if (!stored) {
      *to = scratch.past + block.own.row(i);
    } else if (of.full) {
      *to = i;
    } else {
      copy_4(shared_address(to), p.state.positions[block.head_class] + i, 4);
    }
  }
  if (!stored || p.whole_pieces) {
    const std::int64_t head_row =
        stored ? block.head * of.capacity : std::int64_t{block.kv_head} * scratch.tokens;
    const int key_bytes = stored ? of.key_row_bytes : 2 * kDim;
    const int value_bytes = stored ? of.value_row_bytes : 2 * kDim;
    const std::byte* const key_base =
        (stored ? of.keys : reinterpret_cast<const std::byte*>(scratch.keys)) +
        head_row * key_bytes;
    const std::byte* const value_base =
        (stored ? of.values : reinterpret_cast<const std::byte*>(scratch.values)) +
        head_row * value_bytes;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int at = thread + kThreads * i;
      if (at >= kKeys * kChunks) break;
      const int key = at / kChunks;
      const int column = 16 * (at % kChunks);  // bytes
      const bool there = first + key < count;
      const std::int64_t row = !there ? 0 : stored ? first + key : block.own.row(first + key);
      const std::uint32_t to = key * kTilePitch<kDim> + column;
      const bool in_key = column < key_bytes;
      const bool in_value = column < value_bytes;
      copy_16(keys + to, key_base + row * key_bytes + (in_key ? column : 0),
              there && in_key ? 16 : 0);
      copy_16(values + to, value_base + row * value_bytes + (in_value ? column : 0),
              there && in_value ? 16 : 0);
    }
    return;
  }
#pragma unroll 2
  for (int i = 0; i < 2 * kPasses; ++i) {
    const bool value = i >= kPasses;
    const int at = thread + kThreads * (value ? i - kPasses : i);
    if (at >= kKeys * kChunks) continue;
    const int key = at / kChunks;
    const int chunk = at % kChunks;
    const int dim = value ? of.value_dim : of.key_dim;
    uint4 numbers = make_uint4(0, 0, 0, 0);
    if (first + key < count && 8 * chunk < dim) {
      numbers =
          decode_8<T>(p.dtype, stored_row(of, value, block.head, first + key), 8 * chunk, dim);
    }
    std::byte* const to =
        (value ? tiles.values[stage] : tiles.keys[stage]) + key * kTilePitch<kDim> + 16 * chunk;
    *reinterpret_cast<uint4*>(to) = numbers;
  }
}

/// Blocks from `first_block` on. `beside`: the kernel in front of this one lets it begin only when
/// all that is needed here has been done, and is waited for at the end, on behalf of those behind.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const __grid_constant__ AttentionParams p,
                   const __grid_constant__ PrefillRoom scratch, int first_block, bool beside) {
  extern __shared__ __align__(128) std::byte shared[];
  auto& tiles = *reinterpret_cast<Tiles<kDim>*>(shared);
  constexpr int kPitch = kTilePitch<kDim>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const PrefillBlock block =
      PrefillBlock::make(p, scratch, kRows, kKeys, first_block + static_cast<int>(blockIdx.x));
  const ClassParams& of = p.classes[block.head_class];
  let_next_begin();
  if (!beside) wait_for_previous();

  load_tile<T, kDim>(p, scratch, block, 0, tiles, 0);
  end_copy_group();

  // This lane's two rows; rows beyond the chunk repeat the last one and are not written.
  const int all_rows = scratch.tokens * p.group;
  int row[2];
  RowMask mask[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int asked = block.first_row + 16 * warp + lane / 4 + 8 * r;
    row[r] = asked < all_rows ? asked : all_rows - 1;
    mask[r] = RowMask::make(of, scratch.past + row[r] / p.group);
  }
  std::uint32_t queries[kDim / 16][4];
  {
    const std::uint16_t* const base =
        scratch.queries + std::int64_t{block.kv_head} * all_rows * kDim + lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        queries[k][i] = __ldcg(reinterpret_cast<const unsigned int*>(
            base + std::int64_t{row[i % 2]} * kDim + 16 * k + i / 2 * 8));
      }
    }
  }

  float out[kDim / 8][4] = {};
  float max[2] = {kNoScore, kNoScore};
  float sum[2] = {};  // over this lane's columns
  const std::uint32_t key_offset = (lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * 16;
  const std::uint32_t value_offset = lane % 16 * kPitch + lane / 16 * 16;

  for (int tile = 0; tile < block.tiles; ++tile) {
    const int stage = tile % 2;
    wait_copy_groups<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before it any more
    if (tile + 1 < block.tiles) {
      load_tile<T, kDim>(p, scratch, block, tile + 1, tiles, 1 - stage);
      end_copy_group();
    }

    float scores[kKeys / 8][4] = {};
    const std::uint32_t keys = shared_address(tiles.keys[stage]) + key_offset;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        std::uint32_t b[4];
        load_matrices(keys + 16 * n * kPitch + 32 * k, b);
        multiply_add<T>(scores[2 * n], queries[k], b[0], b[1]);
        multiply_add<T>(scores[2 * n + 1], queries[k], b[2], b[3]);
      }
    }
    if (block.masked(tile)) {
      const std::int32_t* const positions = tiles.positions[stage];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const int2 pair = *reinterpret_cast<const int2*>(positions + 8 * n + lane % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!mask[i / 2].sees(i % 2 == 0 ? pair.x : pair.y)) scores[n][i] = -INFINITY;
        }
      }
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = max[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        high = fmaxf(high, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
      }
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
      const float keep = power_of_two(max[r] - high);
      max[r] = high;
      sum[r] *= keep;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        out[n][2 * r] *= keep;
        out[n][2 * r + 1] *= keep;
      }
    }
    const std::uint32_t values = shared_address(tiles.values[stage]) + value_offset;
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      std::uint32_t weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&from)[4] = scores[2 * k + i / 2];
        const int r = i % 2;
        const float a = power_of_two(from[2 * r] - max[r]);
        const float b = power_of_two(from[2 * r + 1] - max[r]);
        sum[r] += a + b;
        weights[i] = pack<T>(a, b);
      }
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        std::uint32_t b[4];
        load_matrices_turned(values + 16 * k * kPitch + 32 * n, b);
        multiply_add<T>(out[2 * n], weights, b[0], b[1]);
        multiply_add<T>(out[2 * n + 1], weights, b[2], b[3]);
      }
    }
  }

  const int dim = p.value_dim(block.kv_head);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    const int asked = block.first_row + 16 * warp + lane / 4 + 8 * r;
    if (asked >= all_rows) continue;
    const float share = 1.0f / sum[r];
    float* const to = p.out + std::int64_t{asked / p.group} * p.out_stride +
                      p.out_column(block.kv_head, asked % p.group);
    const bool pairs = reinterpret_cast<std::uintptr_t>(to) % sizeof(float2) == 0;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const int d = 8 * n + lane % 4 * 2;
      if (d >= dim) continue;
      const float2 pair = make_float2(out[n][2 * r] * share, out[n][2 * r + 1] * share);
      if (pairs) {
        *reinterpret_cast<float2*>(to + d) = pair;
      } else {
        to[d] = pair.x;
        to[d + 1] = pair.y;
      }
    }
  }
  if (beside) wait_for_previous();
}

using PrefillKernel = void (*)(AttentionParams, PrefillRoom, int, bool);

struct Choice {
  PrefillKernel kernel;
  std::size_t shared_bytes;
};

template <class T>
Choice choose(int tile_dim) {
  switch (tile_dim) {
    case 64:
      return {prefill_kernel<T, 64>, sizeof(Tiles<64>)};
    case 80:
      return {prefill_kernel<T, 80>, sizeof(Tiles<80>)};
    case 96:
      return {prefill_kernel<T, 96>, sizeof(Tiles<96>)};
    case 128:
      return {prefill_kernel<T, 128>, sizeof(Tiles<128>)};
    default:
      return {prefill_kernel<T, 256>, sizeof(Tiles<256>)};
  }
}

}  // namespace

void launch_prefill(const AttentionParams& params, const PrefillRoom& room, bool second_class_only,
                    cudaStream_t stream) {
  // Blocks of the first class stand first: leaving its heads out is beginning later.
  const int skipped = second_class_only ? params.classes[kRetrieval].heads : 0;
  if (skipped == params.kv_heads) return;
  const Choice choice = tiles_are_bf16(params.dtype) ? choose<__nv_bfloat16>(params.tile_dim)
                                                     : choose<__half>(params.tile_dim);
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(choice.kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(choice.shared_bytes)));
  const int row_blocks = (room.tokens * params.group + kRows - 1) / kRows;
  launch({.grid = dim3(row_blocks * (params.kv_heads - skipped)),
          .block = dim3(kThreads),
          .shared_bytes = choice.shared_bytes,
          .stream = stream,
          .early = true},
         choice.kernel, params, room, skipped * row_blocks, second_class_only);
}

}  // namespace sedpa::cuda
