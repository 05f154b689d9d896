#include "sedpa/backend/cuda/train_rows.h"

#include <cuda_bf16.h>

#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostThreads = 1024;

/// The same sum in every thread, in an order that depends on the block's size alone. `warps` is
/// shared memory of a number a warp.
template <class T>
__device__ T block_sum(T value, T* warps) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();  // a sum before this one has been read
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += warps[warp];
  return sum;
}

__device__ inline float number_at(const StoredRows& rows, std::int64_t row, std::int64_t col) {
  const std::int64_t at = row * rows.cols + col;
  if (rows.dtype == Dtype::bf16) {
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(rows.data)[at]);
  }
  return reinterpret_cast<const float*>(rows.data)[at];
}

/// A block a row, as are the others unless they say otherwise.
__global__ void __launch_bounds__(kThreads) round_kernel(Rows from, __nv_bfloat16* to) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < from.cols; i += kThreads) {
    to[row * from.cols + i] = __float2bfloat16_rn(from.data[row * from.stride + i]);
  }
}

/// A thread a pair of a row: all heads turn by the same angle, formed in f64 as a step's are.
__global__ void __launch_bounds__(kThreads)
    turn_kernel(Rows qkv, std::int64_t first, bool forward, RopeParams rope) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= qkv.rows * rope.pairs) return;
  const std::int64_t row = index / rope.pairs;
  const int pair = static_cast<int>(index % rope.pairs);
  double sine;
  double cosine;
  sincos(static_cast<double>(first + row) * rope.inverse_frequency[pair], &sine, &cosine);
  const float c = static_cast<float>(cosine * rope.magnitude);
  const float s = static_cast<float>((forward ? sine : -sine) * rope.magnitude);
  float* at = qkv.data + row * qkv.stride + (rope.neighbours ? 2 * pair : pair);
  const int step = rope.neighbours ? 1 : rope.pairs;
  for (int head = 0; head < rope.heads; ++head, at += rope.head_dim) {
    const float x = at[0];
    const float y = at[step];
    at[0] = x * c - y * s;
    at[step] = x * s + y * c;
  }
}

__global__ void __launch_bounds__(kThreads)
    mix_kernel(Rows gates, StoredRows full, Rows windowed, int head_cols, Rows out) {
  const std::int64_t row = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < out.cols; i += kThreads) {
    const float gate = gates.data[i / head_cols];
    const float narrow = windowed.data[row * windowed.stride + i];
    out.data[row * out.stride + i] = fmaf(narrow, 1.0f - gate, number_at(full, row, i) * gate);
  }
}

/// Grid (runs of kMixRows rows, heads). parts [heads, runs].
__global__ void __launch_bounds__(kThreads)
    mix_backward_kernel(Rows gates, StoredRows full, Rows windowed, int head_cols, Rows d_out,
                        Rows d_windowed, float* parts) {
  __shared__ float warps[kThreads / 32];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kMixRows;
  const std::int64_t left = d_out.rows - first;
  const int count = static_cast<int>(left < kMixRows ? left : kMixRows) * head_cols;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * head_cols;
  const float rest = 1.0f - gates.data[blockIdx.y];
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const std::int64_t row = first + i / head_cols;
    const std::int64_t col = begin + i % head_cols;
    const float d = d_out.data[row * d_out.stride + col];
    const float narrow = windowed.data[row * windowed.stride + col];
    sum = fmaf(d, number_at(full, row, col) - narrow, sum);
    d_windowed.data[row * d_windowed.stride + col] = d * rest;
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/// A block a head: d_gates += the sum of its parts.
__global__ void __launch_bounds__(kThreads)
    gates_kernel(const float* parts, std::int64_t count, Rows d_gates) {
  __shared__ float warps[kThreads / 32];
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
    sum += parts[blockIdx.x * count + i];
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) d_gates.data[blockIdx.x] += sum;
}

/// A block a run of `width` columns of a row.
__global__ void __launch_bounds__(kThreads)
    norm_backward_kernel(Rows x, const float* weight, int width, float epsilon, Rows d_out,
                         Rows residual, Rows d_x) {
  __shared__ float warps[kThreads / 32];
  const std::int64_t runs = x.cols / width;
  const std::int64_t row = blockIdx.x / runs;
  const std::int64_t begin = blockIdx.x % runs * width;
  const float* numbers = x.data + row * x.stride + begin;
  const float* d = d_out.data + row * d_out.stride + begin;
  const float* beside =
      residual.data != nullptr ? residual.data + row * residual.stride + begin : nullptr;
  float* to = d_x.data + row * d_x.stride + begin;
  const int step = static_cast<int>(blockDim.x);
  float squares = 0;
  float products = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += step) {
    squares = fmaf(numbers[i], numbers[i], squares);
    products = fmaf(numbers[i], d[i] * weight[i], products);
  }
  squares = block_sum(squares, warps);
  products = block_sum(products, warps);
  const float count = static_cast<float>(width);
  const float inverse = 1.0f / sqrtf(squares / count + epsilon);
  const float along = inverse * inverse * (products / count);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += step) {
    const float result = inverse * fmaf(-numbers[i], along, d[i] * weight[i]);
    to[i] = beside != nullptr ? result + beside[i] : result;
  }
}

__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(Rows gate_up, Rows d_out, Rows d_gate_up) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t width = d_out.cols;
  const float* from = gate_up.data + row * gate_up.stride;
  float* to = d_gate_up.data + row * d_gate_up.stride;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float gate = from[i];
    const float up = from[width + i];
    const float d = d_out.data[row * d_out.stride + i];
    const float sigmoid = 1.0f / (1.0f + expf(-gate));
    const float slope = sigmoid * fmaf(gate, 1.0f - sigmoid, 1.0f);
    to[i] = d * up * slope;
    to[width + i] = d * gate * sigmoid;
  }
}

/// One block: counted rows are few.
__global__ void __launch_bounds__(kMostThreads)
    error_kernel(Rows x, Rows target, float* loss, Rows d_x) {
  __shared__ double warps[kMostThreads / 32];
  const std::int64_t numbers = x.rows * x.cols;
  const double count = static_cast<double>(numbers);
  const float slope = static_cast<float>(2 / count);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < numbers; i += kMostThreads) {
    const std::int64_t row = i / x.cols;
    const std::int64_t col = i % x.cols;
    const float difference = x.data[row * x.stride + col] - target.data[row * target.stride + col];
    sum += static_cast<double>(difference) * difference;
    d_x.data[row * d_x.stride + col] = slope * difference;
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / count);
}

LaunchShape blocks(std::int64_t count, cudaStream_t stream, int threads = kThreads) {
  return {.grid = dim3(static_cast<unsigned>(count)),
          .block = dim3(static_cast<unsigned>(threads)),
          .stream = stream};
}

}  // namespace

void store_rows(Rows from, StoredRows to, cudaStream_t stream) {
  if (from.rows == 0 || from.cols == 0) return;
  if (to.dtype == Dtype::bf16) {
    return launch(blocks(from.rows, stream), round_kernel, from,
                  reinterpret_cast<__nv_bfloat16*>(to.data));
  }
  const std::size_t width = static_cast<std::size_t>(from.cols) * sizeof(float);
  check(cudaMemcpy2DAsync(to.data, width, from.data,
                          static_cast<std::size_t>(from.stride) * sizeof(float), width,
                          static_cast<std::size_t>(from.rows), cudaMemcpyDeviceToDevice, stream));
}

void turn_rows(Rows qkv, std::int64_t first, bool forward, const RopeParams& rope,
               cudaStream_t stream) {
  const std::int64_t pairs = qkv.rows * rope.pairs;
  if (pairs == 0) return;
  launch(blocks(ceil_div(pairs, std::int64_t{kThreads}), stream), turn_kernel, qkv, first, forward,
         rope);
}

void mix_heads(Rows gates, StoredRows full, Rows windowed, std::int64_t head_cols, Rows out,
               cudaStream_t stream) {
  if (out.rows == 0) return;
  launch(blocks(out.rows, stream), mix_kernel, gates, full, windowed, static_cast<int>(head_cols),
         out);
}

void mix_heads_backward(Rows gates, StoredRows full, Rows windowed, std::int64_t head_cols,
                        Rows d_out, Rows d_gates, Rows d_windowed, float* parts,
                        cudaStream_t stream) {
  if (d_out.rows == 0) return;
  const std::int64_t runs = mix_parts(d_out.rows);
  LaunchShape shape = blocks(runs, stream);
  shape.grid.y = static_cast<unsigned>(gates.cols);
  launch(shape, mix_backward_kernel, gates, full, windowed, static_cast<int>(head_cols), d_out,
         d_windowed, parts);
  launch(blocks(gates.cols, stream), gates_kernel, parts, runs, d_gates);
}

void norm_backward(Rows x, const float* weight, std::int64_t width, float epsilon, Rows d_out,
                   Rows residual, Rows d_x, cudaStream_t stream) {
  const std::int64_t runs = x.rows * (x.cols / width);
  if (runs == 0) return;
  launch(blocks(runs, stream, width <= 128 ? 64 : kThreads), norm_backward_kernel, x, weight,
         static_cast<int>(width), epsilon, d_out, residual, d_x);
}

void swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up, cudaStream_t stream) {
  if (d_out.rows == 0) return;
  launch(blocks(d_out.rows, stream), swiglu_backward_kernel, gate_up, d_out, d_gate_up);
}

void mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x, cudaStream_t stream) {
  launch(blocks(1, stream, kMostThreads), error_kernel, x, target, loss.data, d_x);
}

}  // namespace sedpa::cuda
