#pragma once
// Rows of the KV cache (layouts: attention/kv_policy.h) read and written on the device, and what a
// head vector goes through before it is stored or asked: QK norm and RoPE. One warp a vector.
#include <cuda_runtime.h>

#include <cstdint>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/tensor_core.cuh"

namespace sedpa::cuda {

inline constexpr int kBlockNumbers = 32;  // kKvBlock

__device__ inline int scale_bytes(int dim) {
  return 2 * ((dim + kBlockNumbers - 1) / kBlockNumbers);
}

/// This thread's number, as if nobody knew it yet: what follows from it is formed anew wherever it
/// is asked for. In a long kernel (decode_program.h) it would be kept from one end to the other, in
/// registers that others need, or in local memory.
__device__ inline int own_thread() {
  auto thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  __builtin_assume(thread >= 0);  // so that to divide by 32 is a shift
  return thread;
}

__device__ inline float warp_sum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  return x;
}

/// The nearest code, halves away from zero: as the CPU's encoder.
__device__ inline int to_code(float x, float lowest, float highest) {
  x = x > lowest ? x : lowest;
  x = x < highest ? x : highest;
  return static_cast<int>(x + (x < 0.0f ? -0.5f : 0.5f));
}

/// Encodes numbers [dim] (shared memory) as a stored row and replaces them by what the row holds.
/// `row` null: only the latter. By a whole warp; ends in step.
__device__ inline void encode_row(KvDtype dtype, float* numbers, int dim, std::byte* row) {
  const int lane = own_thread() % 32;
  if (dtype == KvDtype::f32) {
    if (row != nullptr) {
      for (int d = lane; d < dim; d += 32) reinterpret_cast<float*>(row)[d] = numbers[d];
    }
  } else if (dtype == KvDtype::f16) {
    for (int d = lane; d < dim; d += 32) {
      const __half x = __float2half_rn(numbers[d]);
      if (row != nullptr) reinterpret_cast<__half*>(row)[d] = x;
      numbers[d] = __half2float(x);
    }
  } else if (dtype == KvDtype::bf16) {
    for (int d = lane; d < dim; d += 32) {
      const __nv_bfloat16 x = __float2bfloat16_rn(numbers[d]);
      if (row != nullptr) reinterpret_cast<__nv_bfloat16*>(row)[d] = x;
      numbers[d] = __bfloat162float(x);
    }
  } else {
    // Lane l has number l of each block.
    const bool four_bits = dtype == KvDtype::q4;
    const int scales = scale_bytes(dim);
    for (int begin = 0; begin < dim; begin += kBlockNumbers) {
      const int d = begin + lane;
      const float x = d < dim ? numbers[d] : 0.0f;
      float highest = x;
      float lowest = x;
      for (int i = 16; i > 0; i /= 2) {
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, i));
        lowest = fminf(lowest, __shfl_xor_sync(~0u, lowest, i));
      }
      // Lanes beyond a short block bring a zero, which is never the number of largest size.
      float scale;
      if (four_bits)
        scale = (highest >= -lowest ? highest : lowest) / -8.0f;
      else
        scale = fmaxf(fabsf(highest), fabsf(lowest)) / 127.0f;
      const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
      const int code =
          four_bits ? to_code(x * inverse, -8.0f, 7.0f) : to_code(x * inverse, -127.0f, 127.0f);
      const __half stored = __float2half_rn(scale);
      const int next = __shfl_down_sync(~0u, code, 1);
      if (row != nullptr) {
        if (lane == 0) *reinterpret_cast<__half*>(row + begin / kBlockNumbers * 2) = stored;
        if (four_bits) {
          if (lane % 2 == 0 && d < dim) {
            row[scales + d / 2] = static_cast<std::byte>((code + 8) | ((next + 8) << 4));
          }
        } else if (d < dim) {
          row[scales + d] = static_cast<std::byte>(static_cast<std::int8_t>(code));
        }
      }
      if (d < dim) numbers[d] = __half2float(stored) * static_cast<float>(code);
    }
  }
  __syncwarp();
}

/// Codes of q8 plus 128: as q8_pair takes them.
__device__ inline std::uint32_t biased_codes(std::uint32_t codes) { return codes ^ 0x80808080u; }
/// Two numbers of q8 from bytes 0 and 1 of `biased`, or 2 and 3. Bytes of 0x64 above codes + 128
/// make the numbers 1024 + 128 + code; both steps are exact, and the product rounds once, as the
/// product of f32 numbers rounded to f16 does.
__device__ inline std::uint32_t q8_pair(std::uint32_t biased, bool second, __half2 scales) {
  const std::uint32_t bits = __byte_perm(biased, 0x64646464u, second ? 0x4342 : 0x4140);
  const __half2 codes =
      __hsub2(*reinterpret_cast<const __half2*>(&bits), __float2half2_rn(1152.0f));
  const __half2 numbers = __hmul2(codes, scales);
  return *reinterpret_cast<const std::uint32_t*>(&numbers);
}

/// Numbers [first, first + 8) of a stored row as 16-bit ones, zeros from `dim` on. `first` is a
/// multiple of 8. The row, in any memory, is aligned to 2 bytes (f32: 4).
template <class T>
__device__ inline uint4 decode_8(KvDtype dtype, const std::byte* row, int first, int dim) {
  std::uint32_t words[4] = {};
  const int pairs = (dim - first) / 2;  // may be beyond 4
  if (dtype == KvDtype::q8) {
    const float scale =
        __half2float(*reinterpret_cast<const __half*>(row + first / kBlockNumbers * 2));
    const std::byte* codes = row + scale_bytes(dim) + first;
    std::uint32_t raw[2] = {};
    if (pairs >= 4 && reinterpret_cast<std::uintptr_t>(codes) % 4 == 0) {
      raw[0] = *reinterpret_cast<const std::uint32_t*>(codes);
      raw[1] = *reinterpret_cast<const std::uint32_t*>(codes + 4);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= pairs) break;
        const std::uint32_t two = *reinterpret_cast<const std::uint16_t*>(codes + 2 * i);
        raw[i / 2] |= two << (16 * (i % 2));
      }
    }
    if constexpr (std::is_same_v<T, __half>) {
      const __half2 scales = __float2half2_rn(scale);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = i < pairs ? q8_pair(biased_codes(raw[i / 2]), i % 2 == 1, scales) : 0;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t two = raw[i / 2] >> (16 * (i % 2));
        words[i] = i < pairs ? pack<T>(scale * static_cast<std::int8_t>(two & 0xff),
                                       scale * static_cast<std::int8_t>((two >> 8) & 0xff))
                             : 0;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= pairs) break;
      const int d = first + 2 * i;
      if (dtype == KvDtype::f32) {
        const auto* numbers = reinterpret_cast<const float*>(row) + d;
        words[i] = pack<T>(numbers[0], numbers[1]);
      } else if (dtype == KvDtype::q4) {
        const float scale =
            __half2float(*reinterpret_cast<const __half*>(row + first / kBlockNumbers * 2));
        const int both = static_cast<int>(row[scale_bytes(dim) + d / 2]);
        words[i] = pack<T>(scale * static_cast<float>((both & 15) - 8),
                           scale * static_cast<float>((both >> 4) - 8));
      } else {
        // 16-bit numbers of the tile's own type; rows are aligned to 4 bytes, d is even.
        words[i] = *reinterpret_cast<const std::uint32_t*>(row + 2 * d);
      }
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

/// Where a class keeps the key or the value of a slot.
__device__ inline std::byte* stored_row(const ClassParams& of, bool value, int head,
                                        std::int64_t slot) {
  const std::int64_t row = head * of.capacity + slot;
  return value ? of.values + row * of.value_row_bytes : of.keys + row * of.key_row_bytes;
}

/// A head vector in a row of qkv, and what it goes through before it is asked or stored.
struct HeadVector {
  int column = 0;
  int dim = 0;
  const float* norm = nullptr;  // [dim] or null
  bool rotate = false;
  const std::uint8_t* planes = nullptr;  // [dim / 2]: the plane that each pair turns by; null: its
                                         // own number

  __device__ static HeadVector query(const AttentionParams& p, int head, int query) {
    return {p.query_column(head, query), p.key_dim(head), p.query_norm, p.rotate,
            planes_of(p, head)};
  }
  __device__ static HeadVector key(const AttentionParams& p, int head) {
    return {p.key_column(head), p.key_dim(head), p.key_norm, p.rotate, planes_of(p, head)};
  }
  __device__ static HeadVector value(const AttentionParams& p, int head) {
    return {p.value_column(head), p.value_dim(head), nullptr, false, nullptr};
  }

 private:
  __device__ static const std::uint8_t* planes_of(const AttentionParams& p, int head) {
    return p.planes == nullptr ? nullptr : p.planes + head * (p.head_dim / 2);
  }
};

/// Rows of qkv in memory.
struct StoredNumbers {
  /// A lane's numbers of the `dim` at `from`, every 32nd; zeros behind them. They may be another
  /// multiprocessor's, of just now.
  template <int kCount>
  __device__ static void read(const float* from, int lane, int dim, float (&x)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int d = lane + 32 * i;
      x[i] = d < dim ? __ldcg(from + d) : 0.0f;
    }
  }
};

/// Reads a head vector of row `row` of the chunk to shared memory, with QK norm and RoPE as it
/// asks; zeros behind it make it `width` numbers. By a whole warp; ends in step. from: of the
/// vector, which has no more than kMostDim numbers; `numbers` reads it (StoredNumbers).
template <int kMostDim = kMostHeadDim, class Numbers>
__device__ inline void prepare_row(const AttentionParams& p, const HeadVector& vector,
                                   std::int64_t row, int width, float* to, const float* from,
                                   const Numbers& numbers) {
  constexpr int kMostPairs = kMostDim / 64;  // of a lane
  const int lane = own_thread() % 32;
  const StepState& state = p.state;
  const float* const norm = vector.norm;
  const int dim = vector.dim;
  const int planes = state.rope_dim / 2;
  const int half = !vector.rotate ? 0 : dim / 2 < planes ? dim / 2 : planes;
  float cosines[kMostPairs];
  float sines[kMostPairs];
  // Asked for at once with the vector itself: their trips to memory overlap.
#pragma unroll
  for (int i = 0; i < kMostPairs; ++i) {
    const int pair = lane + 32 * i;
    const bool turns = pair < half;
    const int plane = turns && vector.planes != nullptr ? __ldg(vector.planes + pair) : pair;
    cosines[i] = turns ? state.cosines[row * planes + plane] : 1.0f;
    sines[i] = turns ? state.sines[row * planes + plane] : 0.0f;
  }
  float x[2 * kMostPairs];
  numbers.read(from, lane, dim, x);
  if (norm != nullptr) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 2 * kMostPairs; ++i) squares += x[i] * x[i];
    const float inverse =
        1.0f / sqrtf(warp_sum(squares) / static_cast<float>(dim) + p.norm_epsilon);
#pragma unroll
    for (int i = 0; i < 2 * kMostPairs; ++i) {
      const int d = lane + 32 * i;
      if (d < dim) x[i] = x[i] * inverse * norm[d];
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * kMostPairs; ++i) {
    const int d = lane + 32 * i;
    if (d < width) to[d] = x[i];
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kMostPairs; ++i) {
    const int pair = lane + 32 * i;
    if (pair >= half) break;
    const int first = state.rope_neighbours ? 2 * pair : pair;
    const int second = state.rope_neighbours ? first + 1 : pair + half;
    const float a = to[first];
    const float b = to[second];
    to[first] = a * cosines[i] - b * sines[i];
    to[second] = a * sines[i] + b * cosines[i];
  }
  __syncwarp();
}
/// The same, of rows in memory.
__device__ inline void prepare_row(const AttentionParams& p, const HeadVector& vector,
                                   std::int64_t row, int width, float* to) {
  prepare_row(p, vector, row, width, to, p.qkv + row * p.qkv_stride + vector.column,
              StoredNumbers{});
}

}  // namespace sedpa::cuda
