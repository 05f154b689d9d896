#include "sedpa/backend/cuda/dequantize.h"

#include "sedpa/backend/cuda/decode.cuh"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/silu.cuh"

namespace sedpa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kMostHalf = 65504.0f;

/// Calls fn with the type as a constant.
template <Dtype kDtype>
struct Constant {
  static constexpr Dtype kValue = kDtype;
};
template <class Function>
void with_dtype(Dtype dtype, Function&& fn) {
  switch (dtype) {
    case Dtype::f32:
      return fn(Constant<Dtype::f32>());
    case Dtype::f16:
      return fn(Constant<Dtype::f16>());
    case Dtype::bf16:
      return fn(Constant<Dtype::bf16>());
    case Dtype::q8_0:
      return fn(Constant<Dtype::q8_0>());
    case Dtype::q4_0:
      return fn(Constant<Dtype::q4_0>());
    case Dtype::q4_1:
      return fn(Constant<Dtype::q4_1>());
    case Dtype::q5_0:
      return fn(Constant<Dtype::q5_0>());
    case Dtype::q5_1:
      return fn(Constant<Dtype::q5_1>());
    case Dtype::q4_k:
      return fn(Constant<Dtype::q4_k>());
    case Dtype::q5_k:
      return fn(Constant<Dtype::q5_k>());
    case Dtype::q6_k:
      return fn(Constant<Dtype::q6_k>());
    case Dtype::iq4_nl:
      return fn(Constant<Dtype::iq4_nl>());
  }
}

unsigned blocks(std::int64_t count, std::int64_t size) {
  return static_cast<unsigned>(ceil_div(count, size));
}

__device__ __forceinline__ std::uint32_t two_bf16(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

__device__ __forceinline__ std::uint32_t two_f16(float a, float b) {
  // Written so that NaN stays NaN.
  a = a > kMostHalf ? kMostHalf : a < -kMostHalf ? -kMostHalf : a;
  b = b > kMostHalf ? kMostHalf : b < -kMostHalf ? -kMostHalf : b;
  const __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

/// One CTA a row. x [rows, stride], out [rows, packed].
template <Dtype kType>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const float* x, std::int64_t stride, int cols, int packed, bool aligned,
                const float* norm_weight, float epsilon, std::byte* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const float* row = x + blockIdx.x * stride;
  const auto load = [&](int c, float(&v)[4]) {  // columns c .. c + 3, zero past the end
    if (aligned && c + 4 <= cols) {
      const float4 all = *reinterpret_cast<const float4*>(row + c);
      v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = c + k < cols ? row[c + k] : 0.0f;
  };

  float factor = 1;
  if (norm_weight != nullptr) {
    __shared__ float warp_sums[kThreads / 32];
    float sum = 0;
    for (int c = 4 * thread; c < cols; c += 4 * kThreads) {
      float v[4];
      load(c, v);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum = fmaf(v[k], v[k], sum);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (thread % 32 == 0) warp_sums[thread / 32] = sum;
    __syncthreads();
    float total = 0;
    for (int w = 0; w < kThreads / 32; ++w) total += warp_sums[w];
    factor = 1.0f / sqrtf(total / static_cast<float>(cols) + epsilon);
  }

  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * packed;
  for (int c = 4 * thread; c < packed; c += 4 * kThreads) {
    float v[4];
    load(c, v);
    if (norm_weight != nullptr) {
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = c + k < cols ? v[k] * factor * norm_weight[c + k] : 0.0f;
    }
    if constexpr (kType == Dtype::f32) {
      reinterpret_cast<float4*>(out)[(first + c) / 4] = make_float4(v[0], v[1], v[2], v[3]);
    } else if constexpr (kType == Dtype::bf16) {
      reinterpret_cast<uint2*>(out)[(first + c) / 4] =
          make_uint2(two_bf16(v[0], v[1]), two_bf16(v[2], v[3]));
    } else {
      reinterpret_cast<uint2*>(out)[(first + c) / 4] =
          make_uint2(two_f16(v[0], v[1]), two_f16(v[2], v[3]));
    }
  }
}

/// One CTA a row, a thread eight columns. out [rows, 8 octets], zeros from row `count` on.
template <Dtype kDtype>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const std::byte* rows, RowLayout layout, std::int64_t count, int octets,
                  std::byte* out) {
  const std::byte* row = rows + blockIdx.x * layout.bytes;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * octets;
  for (int octet = static_cast<int>(threadIdx.x); octet < octets; octet += kThreads) {
    float v[8] = {};
    if (blockIdx.x < count) numbers<kDtype>(row, layout, octet, v);
    if constexpr (decoded_type(kDtype) == Dtype::f32) {
      float4* to = reinterpret_cast<float4*>(out) + 2 * (first + octet);
      to[0] = make_float4(v[0], v[1], v[2], v[3]);
      to[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
      reinterpret_cast<uint4*>(out)[first + octet] = make_uint4(
          two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]), two_bf16(v[6], v[7]));
    }
  }
}

/// One CTA an out row. ids [rows of the launch].
template <Dtype kDtype>
__global__ void __launch_bounds__(kThreads)
    embed_kernel(const std::byte* rows, RowLayout layout, std::int64_t first, std::int64_t count,
                 const std::int32_t* ids, int cols, float* out, std::int64_t stride) {
  const std::int64_t id = ids[blockIdx.x] - first;
  if (id < 0 || id >= count) return;
  const std::byte* row = rows + id * layout.bytes;
  float* to = out + blockIdx.x * stride;
  for (int c = 8 * static_cast<int>(threadIdx.x); c < cols; c += 8 * kThreads) {
    float v[8];
    numbers<kDtype>(row, layout, c / 8, v);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (c + k < cols) to[c + k] = v[k];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    bias_kernel(const float* bias, float* out, std::int64_t stride, int cols) {
  const int c = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (c < cols) out[blockIdx.x * stride + c] += bias[c];
}

__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(float* gate, std::int64_t gate_stride, const float* up, std::int64_t up_stride,
                  int cols) {
  const int c = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (c >= cols) return;
  float& g = gate[blockIdx.x * gate_stride + c];
  g = silu(g) * up[blockIdx.x * up_stride + c];
}

/// A thread eight columns. rows [rows][2][stored] bf16.
__global__ void __launch_bounds__(kThreads)
    swiglu_packed_kernel(std::byte* rows, int width, int stored, const float* bias) {
  const int c = 8 * static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (c >= stored) return;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * 2 * stored;
  uint4& gate = reinterpret_cast<uint4*>(rows)[(row + c) / 8];
  const uint4 up = reinterpret_cast<const uint4*>(rows)[(row + stored + c) / 8];
  const uint4 from = gate;
  float v[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t g = word_of(from, k / 2);
    const std::uint32_t u = word_of(up, k / 2);
    float a = __uint_as_float(k % 2 == 0 ? g << 16 : g & 0xffff0000u);
    float b = __uint_as_float(k % 2 == 0 ? u << 16 : u & 0xffff0000u);
    if (bias != nullptr && c + k < width) {
      a += bias[c + k];
      b += bias[width + c + k];
    }
    v[k] = c + k < width ? silu(a) * b : 0.0f;
  }
  gate = make_uint4(two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]),
                    two_bf16(v[6], v[7]));
}

}  // namespace

void pack_rows(Rows x, const float* norm_weight, float epsilon, Dtype type, std::byte* out,
               cudaStream_t stream) {
  if (x.rows <= 0) return;
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(x.rows)), .block = dim3(kThreads), .stream = stream};
  const bool aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % 4 == 0;
  void (*kernel)(const float*, std::int64_t, int, int, bool, const float*, float, std::byte*) =
      pack_kernel<Dtype::bf16>;
  if (type == Dtype::f32) kernel = pack_kernel<Dtype::f32>;
  if (type == Dtype::f16) kernel = pack_kernel<Dtype::f16>;
  launch(shape, kernel, x.data, x.stride, static_cast<int>(x.cols),
         static_cast<int>(packed_cols(x.cols)), aligned, norm_weight, epsilon, out);
}

void decode_rows(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                 std::int64_t padded, std::byte* out, cudaStream_t stream) {
  if (padded <= 0) return;
  with_dtype(dtype, [&](auto type) {
    constexpr Dtype kDtype = decltype(type)::kValue;
    launch({.grid = dim3(static_cast<unsigned>(padded)), .block = dim3(kThreads), .stream = stream},
           decode_kernel<kDtype>, rows, row_layout(kDtype, cols), count,
           static_cast<int>(packed_cols(cols) / 8), out);
  });
}

void embed_rows(Dtype dtype, const std::byte* rows, std::int64_t first, std::int64_t count,
                const std::int32_t* ids, Rows out, cudaStream_t stream) {
  if (out.rows <= 0) return;
  with_dtype(dtype, [&](auto type) {
    constexpr Dtype kDtype = decltype(type)::kValue;
    launch(
        {.grid = dim3(static_cast<unsigned>(out.rows)), .block = dim3(kThreads), .stream = stream},
        embed_kernel<kDtype>, rows, row_layout(kDtype, out.cols), first, count, ids,
        static_cast<int>(out.cols), out.data, out.stride);
  });
}

void add_bias(const float* bias, Rows out, cudaStream_t stream) {
  if (out.rows <= 0) return;
  launch({.grid = dim3(static_cast<unsigned>(out.rows), blocks(out.cols, kThreads)),
          .block = dim3(kThreads),
          .stream = stream},
         bias_kernel, bias, out.data, out.stride, static_cast<int>(out.cols));
}

void swiglu_in_place(Rows gate, Rows up, cudaStream_t stream) {
  if (gate.rows <= 0) return;
  launch({.grid = dim3(static_cast<unsigned>(gate.rows), blocks(gate.cols, kThreads)),
          .block = dim3(kThreads),
          .stream = stream},
         swiglu_kernel, gate.data, gate.stride, up.data, up.stride, static_cast<int>(gate.cols));
}

void swiglu_packed(std::byte* gate_up, std::int64_t rows, std::int64_t width, const float* bias,
                   cudaStream_t stream) {
  if (rows <= 0) return;
  const std::int64_t stored = packed_cols(width);
  launch({.grid = dim3(static_cast<unsigned>(rows), blocks(stored / 8, kThreads)),
          .block = dim3(kThreads),
          .stream = stream},
         swiglu_packed_kernel, gate_up, static_cast<int>(width), static_cast<int>(stored), bias);
}

}  // namespace sedpa::cuda
