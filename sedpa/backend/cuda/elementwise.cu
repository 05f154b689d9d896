#include "sedpa/backend/cuda/elementwise.h"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/silu.cuh"

namespace sedpa::cuda {
namespace {

constexpr int kNormThreads = 256;

/// The same sum in every thread, in an order that depends on the block's size alone.
__device__ float block_sum(float value) {
  __shared__ float warps[32];
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += warps[warp];
  __syncthreads();
  return sum;
}

/// Grid (runs of a row, rows).
__global__ void norm_kernel(Rows x, const float* weight, std::int64_t width, float epsilon,
                            Rows out) {
  wait_for_previous();
  let_next_begin();
  const std::int64_t begin = blockIdx.x * width;
  const float* from = x.data + blockIdx.y * x.stride + begin;
  float* to = out.data + blockIdx.y * out.stride + begin;
  float squares = 0;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) squares += from[i] * from[i];
  const float mean = block_sum(squares) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + epsilon);
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x)
    to[i] = from[i] * scale * weight[i];
}

__global__ void swiglu_kernel(Rows gate_up, Rows out) {
  wait_for_previous();
  let_next_begin();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= out.cols) return;
  const float* row = gate_up.data + blockIdx.y * gate_up.stride;
  out.data[blockIdx.y * out.stride + i] = silu(row[i]) * row[out.cols + i];
}

struct Best {
  float value;
  std::int32_t index;
};

/// NaN and +inf win over all, so that they are found out.
__device__ Best better(Best a, Best b) {
  const bool a_bad = isnan(a.value) || a.value == INFINITY;
  const bool b_bad = isnan(b.value) || b.value == INFINITY;
  if (a_bad) return a;
  if (b_bad) return b;
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.index < b.index ? a : b;
}

__device__ Best block_best(Best best) {
  __shared__ Best warps[32];
  for (int offset = 16; offset > 0; offset /= 2) {
    const Best other = {__shfl_xor_sync(0xffffffffu, best.value, offset),
                        __shfl_xor_sync(0xffffffffu, best.index, offset)};
    best = better(best, other);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  best = warps[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) best = better(best, warps[warp]);
  return best;
}

constexpr int kArgmaxThreads = 512;

__global__ void __launch_bounds__(kArgmaxThreads)
    argmax_kernel(const float* row, std::int64_t count, ArgmaxScratch* scratch,
                  std::int32_t* result) {
  wait_for_previous();
  let_next_begin();
  constexpr Best kNone = {-INFINITY, 0x7fffffff};
  Best best = kNone;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    best = better(best, {row[i], static_cast<std::int32_t>(i)});
  }
  best = block_best(best);
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    scratch->values[blockIdx.x] = best.value;
    scratch->indices[blockIdx.x] = best.index;
    __threadfence();
    is_last = atomicInc(&scratch->done, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!is_last) return;
  const unsigned i = threadIdx.x;
  best = block_best(i < gridDim.x ? Best{__ldcg(scratch->values + i), __ldcg(scratch->indices + i)}
                                  : kNone);
  if (i == 0) *result = isfinite(best.value) ? best.index : -1;
}

}  // namespace

void norm(Rows x, const float* weight, std::int64_t width, float epsilon, Rows out,
          cudaStream_t stream) {
  if (x.rows == 0 || x.cols == 0) return;
  // Grids are 65535 high at most.
  constexpr std::int64_t kMostRows = 32768;
  for (std::int64_t first = 0; first < x.rows; first += kMostRows) {
    const std::int64_t rows = x.rows - first < kMostRows ? x.rows - first : kMostRows;
    const LaunchShape shape{
        .grid = dim3(static_cast<unsigned>(x.cols / width), static_cast<unsigned>(rows)),
        .block = dim3(width <= 128 ? 64 : kNormThreads),
        .stream = stream,
        .early = true};
    launch(shape, norm_kernel, x.range(first, rows), weight, width, epsilon,
           out.range(first, rows));
  }
}

void swiglu(Rows gate_up, Rows out, cudaStream_t stream) {
  if (out.rows == 0 || out.cols == 0) return;
  constexpr std::int64_t kMostRows = 32768;
  constexpr unsigned kThreads = 256;
  for (std::int64_t first = 0; first < out.rows; first += kMostRows) {
    const std::int64_t rows = out.rows - first < kMostRows ? out.rows - first : kMostRows;
    const LaunchShape shape{
        .grid = dim3(static_cast<unsigned>((out.cols + kThreads - 1) / kThreads),
                     static_cast<unsigned>(rows)),
        .block = dim3(kThreads),
        .stream = stream,
        .early = true};
    launch(shape, swiglu_kernel, gate_up.range(first, rows), out.range(first, rows));
  }
}

void argmax(const float* row, std::int64_t count, ArgmaxScratch* scratch, std::int32_t* result,
            cudaStream_t stream) {
  launch(
      {.grid = dim3(kArgmaxBlocks), .block = dim3(kArgmaxThreads), .stream = stream, .early = true},
      argmax_kernel, row, count, scratch, result);
}

}  // namespace sedpa::cuda
