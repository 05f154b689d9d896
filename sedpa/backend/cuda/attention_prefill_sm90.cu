// Many tokens, full heads, on Hopper: the design of FlashAttention-3 (Shah et al., arXiv
// 2407.08608). One warp asks the copy engine for tiles of 128 keys; two warpgroups, 64 query rows
// each, multiply with wgmma. A warpgroup's products with a tile's values run while it makes the
// weights of the next tile, and the warpgroups take turns, so that one's softmax hides behind the
// other's products.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/hopper.cuh"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/prefill_block.h"
#include "sedpa/backend/cuda/tensor_core.cuh"
#include "sedpa/backend/cuda/tile_map.h"

namespace sedpa::cuda {
namespace {

constexpr int kRows = 128;  // query rows of a block
constexpr int kKeys = 128;  // of a tile
constexpr int kStages = 3;
constexpr int kGroupThreads = 128;
constexpr int kThreads = 3 * kGroupThreads;
[[maybe_unused]] constexpr int kStored = 0;  // the cache
[[maybe_unused]] constexpr int kOwn = 1;     // the chunk's scratch

/// Tensors [heads, rows, numbers of a row] in boxes of 128 rows x 64 numbers. Where stored rows
/// have fewer numbers than a tile's, boxes end in zeros.
struct TileMaps {
  CUtensorMap queries;
  CUtensorMap keys[2];  // kStored, kOwn
  CUtensorMap values[2];
};

/// Shared memory. Matrices are halves of 64 columns, one after the other, swizzled by 128 bytes.
template <int kDim>
struct Room {
  static constexpr int kHalves = kDim / 64;
  static constexpr int kHalfBytes = 128 * 128;
  static constexpr int kTileBytes = kHalves * kHalfBytes;
  std::byte queries[kTileBytes];
  std::byte keys[kStages][kTileBytes];
  std::byte values[kStages][kTileBytes];
  std::uint64_t queries_there;
  std::uint64_t keys_there[kStages];
  std::uint64_t keys_read[kStages];
  std::uint64_t values_there[kStages];
  std::uint64_t values_read[kStages];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int kDim>
__device__ void copy_tile(std::byte* to, const CUtensorMap* map, int row, int head,
                          std::uint64_t& there) {
  const std::uint32_t barrier = shared_address(&there);
  arrive_expecting(barrier, Room<kDim>::kTileBytes);
#pragma unroll
  for (int half = 0; half < Room<kDim>::kHalves; ++half) {
    copy_box(shared_address(to) + half * Room<kDim>::kHalfBytes, map, 64 * half, row, head,
             barrier);
  }
}

/// One thread: keys and values, tile after tile, as fast as the readers free their places.
template <int kDim>
__device__ void produce(const TileMaps& maps, const PrefillBlock& block, Room<kDim>& room) {
  copy_tile<kDim>(room.queries, &maps.queries, block.first_row, block.kv_head, room.queries_there);
  for (int tile = 0; tile < block.tiles; ++tile) {
    const int stage = tile % kStages;
    const int parity = tile / kStages % 2;
    const bool stored = tile < block.stored_tiles;
    const int from = stored ? kStored : kOwn;
    const int row = (stored ? tile : tile - block.stored_tiles) * kKeys;
    const int head = stored ? block.head : block.kv_head;
    // The first round finds all places free: the phase before the first counts as ended.
    wait_barrier(shared_address(&room.keys_read[stage]), parity ^ 1);
    copy_tile<kDim>(room.keys[stage], &maps.keys[from], row, head, room.keys_there[stage]);
    wait_barrier(shared_address(&room.values_read[stage]), parity ^ 1);
    copy_tile<kDim>(room.values[stage], &maps.values[from], row, head, room.values_there[stage]);
  }
}

/// scores [64, 128] of a warpgroup's rows and a tile's keys; asked for, not waited for.
template <class T, int kDim>
__device__ void ask_scores(float (&scores)[64], std::uint32_t queries, std::uint32_t keys) {
  constexpr int kHalfBytes = Room<kDim>::kHalfBytes;
  settle(scores);
  begin_products();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const int offset = k / 4 * kHalfBytes + k % 4 * 32;
    multiply_shared<T>(scores, matrix_descriptor(queries + offset, 16, 1024),
                       matrix_descriptor(keys + offset, 16, 1024), k > 0);
  }
  end_products();
}

/// out [64, kDim] += weights [64, 128] values.
template <class T, int kDim>
__device__ void ask_values(float (&out)[kDim / 2], const std::uint32_t (&weights)[kKeys / 16][4],
                           std::uint32_t values) {
  settle(out);
  begin_products();
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    multiply_registers<T>(out, weights[k],
                          matrix_descriptor(values + k * 16 * 128, Room<kDim>::kHalfBytes, 1024));
  }
  end_products();
}

/// The online softmax of a lane's two rows. The maximum follows only when it would be more than
/// kLag behind: weights are up to 2^kLag then, and what is older keeps its scale in nearly all
/// tiles, as in FlashAttention-4 (Zadouri et al., 2026).
struct Softmax {
  static constexpr float kLag = 8;
  float max[2] = {kNoScore, kNoScore};
  float sum[2] = {};  // over this lane's columns

  /// Scores become weights. Whether what is older is to be multiplied by `keep`: the same for a
  /// whole warp.
  __device__ bool take(float (&scores)[64], float (&keep)[2]) {
    float high[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      high[r] = max[r];
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        high[r] = fmaxf(high[r], fmaxf(scores[4 * n + 2 * r], scores[4 * n + 2 * r + 1]));
      }
      high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 1));
      high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 2));
    }
    const bool rises = __any_sync(~0u, fmaxf(high[0] - max[0], high[1] - max[1]) > kLag) != 0;
    if (rises) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        keep[r] = power_of_two(max[r] - high[r]);
        max[r] = high[r];
        sum[r] *= keep[r];
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = 0;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[4 * n + 2 * r + i];
          score = power_of_two(score - max[r]);
          total += score;
        }
      }
      sum[r] += total;
    }
    return rises;
  }
};

template <class T>
__device__ void pack_weights(const float (&scores)[64], std::uint32_t (&weights)[kKeys / 16][4]) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weights[k][i] = pack<T>(scores[8 * k + 2 * i], scores[8 * k + 2 * i + 1]);
    }
  }
}

/// Has a number (never below zero) made before what follows. The assembler moves the softmax behind
/// the wait for products otherwise, where nothing hides it.
__device__ inline void need_now(float sum) {
  asm volatile(
      "{\n"
      ".reg .pred never;\n"
      "setp.lt.f32 never, %0, 0f00000000;\n"
      "@never nanosleep.u32 0;\n"
      "}\n" ::"f"(sum)
      : "memory");
}

/// A warpgroup: 64 query rows through all tiles.
template <class T, int kDim>
__device__ void consume(const AttentionParams& p, const PrefillRoom& scratch,
                        const PrefillBlock& block, Room<kDim>& room, int group) {
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int all_rows = scratch.tokens * p.group;
  int row[2];
  int position[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    row[r] = block.first_row + 64 * group + 16 * warp + lane / 4 + 8 * r;
    position[r] = scratch.past + row[r] / p.group;
  }
  const std::uint32_t queries = shared_address(room.queries) + group * 64 * 128;
  const auto mask = [&](int tile, float(&scores)[64]) {
    if (!block.masked(tile)) return;
    // Columns from `end` on: no keys, or younger than the row.
    const bool stored = tile < block.stored_tiles;
    const int first = (stored ? tile : tile - block.stored_tiles) * kKeys;
    const int count = stored ? block.stored : block.own.count();
    const int base = stored ? 0 : scratch.past;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int seen = position[r] + 1 - base;
      const int end = (seen < count ? seen : count) - first - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (8 * n + i >= end) scores[4 * n + 2 * r + i] = -INFINITY;
        }
      }
    }
  };
  const auto there = [](std::uint64_t(&barriers)[kStages], int tile) {
    wait_barrier(shared_address(&barriers[tile % kStages]), tile / kStages % 2);
  };
  const auto free_place = [&](std::uint64_t(&barriers)[kStages], int tile) {
    if (lane == 0) arrive(shared_address(&barriers[tile % kStages]));
  };

  float scores[64];
  float out[kDim / 2] = {};
  std::uint32_t weights[kKeys / 16][4];
  float keep[2] = {1, 1};
  Softmax softmax;

  if (group == 1 && block.tiles > 1)
    named_arrive(1, 2 * kGroupThreads);  // the first turn is the other one's
  wait_barrier(shared_address(&room.queries_there), 0);
  there(room.keys_there, 0);
  ask_scores<T, kDim>(scores, queries, shared_address(room.keys[0]));
  wait_products<0>();
  settle(scores);
  free_place(room.keys_read, 0);
  mask(0, scores);
  (void)softmax.take(scores, keep);
  pack_weights<T>(scores, weights);

  for (int tile = 1; tile < block.tiles; ++tile) {
    there(room.keys_there, tile);
    named_wait(1 + group, 2 * kGroupThreads);
    ask_scores<T, kDim>(scores, queries, shared_address(room.keys[tile % kStages]));
    there(room.values_there, tile - 1);
    ask_values<T, kDim>(out, weights, shared_address(room.values[(tile - 1) % kStages]));
    // The last arrival of all would have nobody to wait for it.
    if (group == 0 || tile + 1 < block.tiles) named_arrive(2 - group, 2 * kGroupThreads);
    wait_products<1>();
    settle(scores);
    free_place(room.keys_read, tile);
    mask(tile, scores);
    const bool rises = softmax.take(scores, keep);
    need_now(softmax.sum[0] + softmax.sum[1]);
    wait_products<0>();
    settle(out);
    free_place(room.values_read, tile - 1);
    pack_weights<T>(scores, weights);
    if (rises) {
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) out[i] *= keep[i / 2 % 2];
    }
  }
  const int last = block.tiles - 1;
  there(room.values_there, last);
  ask_values<T, kDim>(out, weights, shared_address(room.values[last % kStages]));
  wait_products<0>();
  settle(out);

  const int dim = p.value_dim(block.kv_head);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = softmax.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row[r] >= all_rows) continue;
    const float share = 1.0f / sum;
    float* const to = p.out + std::int64_t{row[r] / p.group} * p.out_stride +
                      p.out_column(block.kv_head, row[r] % p.group) + lane % 4 * 2;
    const bool pairs = reinterpret_cast<std::uintptr_t>(to) % sizeof(float2) == 0;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      if (8 * n + lane % 4 * 2 >= dim) break;
      const float2 pair = make_float2(out[4 * n + 2 * r] * share, out[4 * n + 2 * r + 1] * share);
      if (pairs) {
        *reinterpret_cast<float2*>(to + 8 * n) = pair;
      } else {
        to[8 * n] = pair.x;
        to[8 * n + 1] = pair.y;
      }
    }
  }
}

#endif

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel_sm90(const __grid_constant__ AttentionParams p,
                        const __grid_constant__ PrefillRoom scratch,
                        const __grid_constant__ TileMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::byte shared[];
  // Swizzled matrices begin at multiples of 1024 bytes.
  auto& room =
      *reinterpret_cast<Room<kDim>*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
  const PrefillBlock block =
      PrefillBlock::make(p, scratch, kRows, kKeys, static_cast<int>(blockIdx.x));
  if (threadIdx.x == 0) {
    init_barrier(shared_address(&room.queries_there), 1);
    for (int i = 0; i < kStages; ++i) {
      init_barrier(shared_address(&room.keys_there[i]), 1);
      init_barrier(shared_address(&room.values_there[i]), 1);
      init_barrier(shared_address(&room.keys_read[i]), 8);  // warps
      init_barrier(shared_address(&room.values_read[i]), 8);
    }
    publish_barriers();
  }
  __syncthreads();
  // In this order: the other class's blocks, which come next, fill the multiprocessors that run out
  // of work here, and need what was waited for (launch_prefill, `beside`).
  wait_for_previous();
  let_next_begin();
  // The same for a whole warp, and known to be.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) produce<kDim>(maps, block, room);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    consume<T, kDim>(p, scratch, block, room, group - 1);
  }
#else
  __trap();  // launched on nothing else: prefill_sm90_runs
#endif
}

using Sm90Kernel = void (*)(AttentionParams, PrefillRoom, TileMaps);

struct Choice {
  Sm90Kernel kernel;
  std::size_t shared_bytes;
};

Choice choose(KvDtype dtype, int dim) {
  constexpr std::size_t kAlign = 1024;
  if (dtype == KvDtype::bf16) {
    return dim == 64 ? Choice{prefill_kernel_sm90<__nv_bfloat16, 64>, sizeof(Room<64>) + kAlign}
                     : Choice{prefill_kernel_sm90<__nv_bfloat16, 128>, sizeof(Room<128>) + kAlign};
  }
  return dim == 64 ? Choice{prefill_kernel_sm90<__half, 64>, sizeof(Room<64>) + kAlign}
                   : Choice{prefill_kernel_sm90<__half, 128>, sizeof(Room<128>) + kAlign};
}

}  // namespace

bool prefill_sm90_runs(int compute) {
  if (compute != 90 || !has_tile_maps()) return false;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes,
                              reinterpret_cast<const void*>(choose(KvDtype::f16, 64).kernel)));
  return attributes.binaryVersion == 90;
}

bool prefill_sm90_takes(const AttentionParams& params) {
  const ClassParams& of = params.classes[kRetrieval];
  return of.full && of.heads > 0 && params.whole_pieces &&
         (params.tile_dim == 64 || params.tile_dim == 128);
}

void launch_prefill_sm90(const AttentionParams& params, const PrefillRoom& room,
                         cudaStream_t stream) {
  const ClassParams& of = params.classes[kRetrieval];
  const int dim = params.tile_dim;
  const std::int64_t rows = std::int64_t{room.tokens} * params.group;
  const Choice choice = choose(params.dtype, dim);
  const TileMaps maps = {
      .queries = tile_map(params.dtype, room.queries, dim, rows, params.kv_heads, rows, kRows),
      .keys = {tile_map(params.dtype, of.keys, of.key_dim, room.past, of.heads, of.capacity, kKeys),
               tile_map(params.dtype, room.keys, dim, room.tokens, params.kv_heads, room.tokens,
                        kKeys)},
      .values = {
          tile_map(params.dtype, of.values, of.value_dim, room.past, of.heads, of.capacity, kKeys),
          tile_map(params.dtype, room.values, dim, room.tokens, params.kv_heads, room.tokens,
                   kKeys)}};
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(choice.kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(choice.shared_bytes)));
  const auto blocks = static_cast<unsigned>((rows + kRows - 1) / kRows) * of.heads;
  launch({.grid = dim3(blocks),
          .block = dim3(kThreads),
          .shared_bytes = choice.shared_bytes,
          .stream = stream,
          .early = true},
         choice.kernel, params, room, maps);
}

}  // namespace sedpa::cuda
