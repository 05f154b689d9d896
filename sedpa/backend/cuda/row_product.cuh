#pragma once
// One row times rows of a matrix, as far as it is the same for all kernels that do it.
#include <cstdint>

#include "sedpa/backend/cuda/decode.cuh"
#include "sedpa/backend/cuda/gemv.h"
#include "sedpa/backend/cuda/silu.cuh"

namespace sedpa::cuda::gemv_detail {

inline constexpr int kGroupSteps = 4;  // whose sums are reduced over a warp together

/// 16 bytes of a plain row times their columns of x.
template <Dtype kDtype>
__device__ __forceinline__ float plain_dot(const uint4& piece, const float* x) {
  float sum[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t word = word_of(piece, i);
    if constexpr (kDtype == Dtype::f32) {
      sum[i % 2] = fmaf(__uint_as_float(word), x[i], sum[i % 2]);
    } else if constexpr (kDtype == Dtype::bf16) {
      sum[0] = fmaf(__uint_as_float(word << 16), x[2 * i], sum[0]);
      sum[1] = fmaf(__uint_as_float(word & 0xffff0000u), x[2 * i + 1], sum[1]);
    } else {
      sum[0] = fmaf(low_half(word), x[2 * i], sum[0]);
      sum[1] = fmaf(high_half(word), x[2 * i + 1], sum[1]);
    }
  }
  return sum[0] + sum[1];
}

/// Columns [first, first + kCount) of x, zeros past `cols`. kCount is a multiple of 4, so is first.
template <int kCount>
__device__ __forceinline__ void load_columns(const float* x, int first, int cols, bool aligned,
                                             float* to) {
  if (aligned && first + kCount <= cols) {
#pragma unroll
    for (int quad = 0; quad < kCount / 4; ++quad) {
      const float4 v = *reinterpret_cast<const float4*>(x + first + 4 * quad);
      to[4 * quad] = v.x, to[4 * quad + 1] = v.y, to[4 * quad + 2] = v.z, to[4 * quad + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = first + i < cols ? x[first + i] : 0.0f;
  }
}

/// Where four columns of x stand among float4s: threads that read 32 columns apart meet different
/// banks.
__device__ __forceinline__ int staged(int quad) { return quad ^ (quad >> 3 & 7); }

/// Sums of four values over a warp; lanes 8 r .. 8 r + 7 get value r's.
__device__ __forceinline__ float reduce_four(const float (&v)[kGroupSteps], int lane) {
  const bool upper = (lane & 16) != 0;
  float a = upper ? v[2] : v[0];
  float b = upper ? v[3] : v[1];
  a += __shfl_xor_sync(~0u, upper ? v[0] : v[2], 16);
  b += __shfl_xor_sync(~0u, upper ? v[1] : v[3], 16);
  const bool second = (lane & 8) != 0;
  float sum = second ? b : a;
  sum += __shfl_xor_sync(~0u, second ? a : b, 8);
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  return sum;
}

/// What becomes of the product (or products) of output i. gate, residual: its own; 1, 0 where there
/// is none.
__device__ __forceinline__ float outcome(const GemvJob& job, std::int64_t i, float v, float up,
                                         float gate, float residual) {
  if (job.bias != nullptr) v += job.bias[i];
  if (job.up_rows != nullptr) {
    if (job.up_bias != nullptr) up += job.up_bias[i];
    v = silu(v) * up;
  } else if (job.gate != nullptr) {
    v = silu(gate) * v;
  }
  return v + residual;
}

}  // namespace sedpa::cuda::gemv_detail
