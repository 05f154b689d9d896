// What happens to qkv rows besides attention itself: norm and RoPE in place, their 16-bit copies
// for prefill, and their way into the cache. One warp a head vector.
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/kv_rows.cuh"
#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

constexpr int kWarps = 8;

/// Which head vector of a row this warp has; shared memory for it.
struct WarpPlace {
  std::int64_t row;
  int head;
  int lane;
};

__device__ WarpPlace warp_place() {
  return {.row = blockIdx.x,
          .head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32),
          .lane = static_cast<int>(threadIdx.x % 32)};
}

__global__ void __launch_bounds__(32 * kWarps)
    rope_kernel(const __grid_constant__ AttentionParams p) {
  __shared__ float rooms[kWarps][kMostHeadDim];
  let_next_begin();
  wait_for_previous();
  const WarpPlace at = warp_place();
  if (at.head >= p.query_heads + p.kv_heads) return;
  const HeadVector vector = at.head < p.query_heads
                                ? HeadVector::query(p, at.head / p.group, at.head % p.group)
                                : HeadVector::key(p, at.head - p.query_heads);
  float* const room = rooms[threadIdx.x / 32];
  prepare_row(p, vector, at.row, vector.dim, room);
  float* const numbers = p.qkv + at.row * p.qkv_stride + vector.column;
  for (int d = at.lane; d < vector.dim; d += 32) numbers[d] = room[d];
}

/// To 16 bits: queries with the scale of the scores, keys and values by way of the KV dtype. Full
/// classes' rows go to the cache at once when params.commit: they overwrite nothing.
template <class T>
__global__ void __launch_bounds__(32 * kWarps)
    stage_kernel(const __grid_constant__ AttentionParams p,
                 const __grid_constant__ PrefillRoom scratch) {
  __shared__ float rooms[kWarps][kMostHeadDim];
  let_next_begin();
  wait_for_previous();
  const WarpPlace at = warp_place();
  if (at.head >= p.query_heads + 2 * p.kv_heads) return;
  const bool query = at.head < p.query_heads;
  const bool value = at.head >= p.query_heads + p.kv_heads;
  const int head = query ? at.head / p.group : (at.head - p.query_heads) % p.kv_heads;
  const HeadVector vector = query   ? HeadVector::query(p, head, at.head % p.group)
                            : value ? HeadVector::value(p, head)
                                    : HeadVector::key(p, head);
  float* const room = rooms[threadIdx.x / 32];
  prepare_row(p, vector, at.row, p.tile_dim, room);

  const std::int64_t head_row = std::int64_t{head} * scratch.tokens + at.row;
  std::uint16_t* to;
  if (query) {
    to = scratch.queries + (head_row * p.group + at.head % p.group) * p.tile_dim;
  } else {
    to = (value ? scratch.values : scratch.keys) + head_row * p.tile_dim;
    std::byte* stored = nullptr;
    int width = vector.dim;
    if (p.commit) {
      for (int which = 0; which < kHeadClasses; ++which) {
        const ClassParams& of = p.classes[which];
        if (!of.full) continue;
        for (int i = 0; i < of.heads; ++i) {
          if (p.kv_head(which, i) != head) continue;
          stored = stored_row(of, value, i, scratch.past + at.row);
          width = value ? of.value_dim : of.key_dim;
        }
      }
    }
    encode_row(p.dtype, room, width, stored);
  }
  const float scale = query ? p.scale_log2 : 1.0f;
  for (int d = 2 * at.lane; d < p.tile_dim; d += 64) {
    *reinterpret_cast<std::uint32_t*>(to + d) = pack<T>(room[d] * scale, room[d + 1] * scale);
  }
}

/// blockIdx.y counts (place of the head, key or value).
__global__ void __launch_bounds__(32 * kWarps)
    commit_kernel(const __grid_constant__ AttentionParams p, bool full_classes,
                  bool window_classes) {
  __shared__ float rooms[kWarps][kMostHeadDim];
  let_next_begin();
  wait_for_previous();
  const WarpPlace at = warp_place();
  const int place = at.head / 2;
  const bool value = at.head % 2 != 0;
  if (place >= p.kv_heads) return;
  const int which = place < p.classes[kRetrieval].heads ? kRetrieval : kStreaming;
  const ClassParams& of = p.classes[which];
  if (!(of.full ? full_classes : window_classes)) return;
  const std::int64_t slot =
      of.full ? *p.state.past + at.row : std::int64_t{p.state.slots[which][at.row]};
  if (slot < 0) return;
  const int in_class = which == kRetrieval ? place : place - p.classes[kRetrieval].heads;
  const int width = value ? of.value_dim : of.key_dim;
  float* const room = rooms[threadIdx.x / 32];
  prepare_row(p, value ? HeadVector::value(p, p.order[place]) : HeadVector::key(p, p.order[place]),
              at.row, width, room);
  encode_row(p.dtype, room, width, stored_row(of, value, in_class, slot));
}

LaunchShape shape_of(std::int64_t rows, int heads, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(rows), (heads + kWarps - 1) / kWarps),
          .block = dim3(32 * kWarps),
          .shared_bytes = 0,
          .stream = stream,
          .early = true};
}

}  // namespace

void launch_rope(const AttentionParams& params, std::int64_t tokens, cudaStream_t stream) {
  launch(shape_of(tokens, params.query_heads + params.kv_heads, stream), rope_kernel, params);
}

void launch_stage(const AttentionParams& params, const PrefillRoom& room, cudaStream_t stream) {
  const LaunchShape shape = shape_of(room.tokens, params.query_heads + 2 * params.kv_heads, stream);
  launch(shape, tiles_are_bf16(params.dtype) ? stage_kernel<__nv_bfloat16> : stage_kernel<__half>,
         params, room);
}

void launch_commit(const AttentionParams& params, std::int64_t tokens, bool full_classes,
                   bool window_classes, cudaStream_t stream) {
  launch(shape_of(tokens, 2 * params.kv_heads, stream), commit_kernel, params, full_classes,
         window_classes);
}

}  // namespace sedpa::cuda
