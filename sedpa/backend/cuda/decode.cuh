#pragma once
// Stored weights to numbers, in registers. The layout is weight_format.h's.
//
// Products of quantised weights with x are formed in integers: x of a chunk becomes fixed-point
// numbers of 16 bits (FixedX), and one instruction multiplies two codes by two of them and adds
// them up. That is exact; of x, half a unit of 2^-15 of the chunk's largest is lost, as on the CPU,
// and the work is a third of that in f32.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "sedpa/backend/cuda/weight_format.h"

namespace sedpa::cuda {

/// A chunk of 32 columns as it lies in memory; members that a type lacks are never touched.
struct Chunk {
  uint4 codes;           // columns 0 .. 31, or 0 .. 15 (q8_0)
  uint4 more_codes;      // columns 16 .. 31 (q8_0)
  uint2 high;            // x alone where there are four bytes
  std::uint32_t scales;  // of this chunk, in the low bits
  std::uint32_t supers;  // likewise
};

/// The code that stands for zero; types of signed values have none.
template <Dtype kDtype>
inline constexpr int kZeroCode = kDtype == Dtype::q4_0   ? 8
                                 : kDtype == Dtype::q5_0 ? 16
                                 : kDtype == Dtype::q6_k ? 32
                                                         : 0;

__device__ __forceinline__ std::uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// The codes of columns 4 u .. 4 u + 3 of a chunk, a signed byte each. word: the word of codes that
/// holds them (u for q8_0, else u mod 4); high: the word of high bits that holds theirs.
template <Dtype kDtype>
__device__ __forceinline__ std::uint32_t codes_of(std::uint32_t word, std::uint32_t high, int u) {
  if constexpr (kDtype == Dtype::q8_0) return word;
  if constexpr (kDtype == Dtype::iq4_nl) {
    constexpr auto table = [](int i) {
      std::uint32_t four = 0;
      for (int k = 0; k < 4; ++k) {
        four |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(kIq4Values[i + k])) << 8 * k;
      }
      return four;
    };
    constexpr std::uint32_t kTable[4] = {table(0), table(4), table(8), table(12)};
    const std::uint32_t nibbles = u < 4 ? word : word >> 16;
    const std::uint32_t index = nibbles & 0x7777u;
    const std::uint32_t first = __byte_perm(kTable[0], kTable[1], index);
    const std::uint32_t second = __byte_perm(kTable[2], kTable[3], index);
    return __byte_perm(first, second, 0x3210u | ((nibbles & 0x8888u) >> 1));
  }
  std::uint32_t codes = (u < 4 ? word : word >> 4) & 0x0f0f0f0fu;
  if constexpr (kDtype == Dtype::q6_k) {
    codes |= __funnelshift_l(high, high, 4 - 2 * (u % 4)) & 0x30303030u;
  } else if constexpr (chunk_bytes(kDtype).high != 0) {
    codes |= __funnelshift_l(high, high, 4 - u) & 0x10101010u;
  }
  return codes;
}

/// number = scale[half] * (code - zero) + minimum.
struct Affine {
  float scale[2];
  float minimum;
};

__device__ __forceinline__ float low_half(std::uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
__device__ __forceinline__ float high_half(std::uint32_t bits) { return low_half(bits >> 16); }

template <Dtype kDtype>
__device__ __forceinline__ Affine affine(std::uint32_t scales, std::uint32_t supers) {
  Affine a;
  a.minimum = 0;
  if constexpr (kDtype == Dtype::q6_k) {
    const float d = low_half(supers);
    a.scale[0] = d * static_cast<float>(static_cast<std::int8_t>(scales));
    a.scale[1] = d * static_cast<float>(static_cast<std::int8_t>(scales >> 8));
  } else if constexpr (chunk_bytes(kDtype).supers != 0) {
    a.scale[0] = a.scale[1] = low_half(supers) * static_cast<float>(scales & 0xffu);
    a.minimum = -high_half(supers) * static_cast<float>((scales >> 8) & 0xffu);
  } else {
    a.scale[0] = a.scale[1] = low_half(scales);
    if constexpr (chunk_bytes(kDtype).scales == 4) a.minimum = high_half(scales);
  }
  return a;
}

/// A chunk of x: integers of 16 bits, in units of scale.
struct FixedX {
  std::uint32_t pairs[16];  // columns 2 i, 2 i + 1
  float sum[2];             // of columns 0 .. 15 and 16 .. 31
  float scale;
};

__device__ __forceinline__ void clear(FixedX& x) {
#pragma unroll
  for (std::uint32_t& pair : x.pairs) pair = 0;
  x.sum[0] = x.sum[1] = x.scale = 0;
}

/// 1 / x to a unit or two.
__device__ __forceinline__ float near_inverse(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}
/// The larger; NaN when one is.
__device__ __forceinline__ float larger(float a, float b) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
  return most;
}
/// Four codes, signed bytes, times four columns of x, added to `sum`.
__device__ __forceinline__ void add_products(std::uint32_t codes, const FixedX& x, int word,
                                             int& sum) {
  asm("dp2a.lo.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x.pairs[2 * word]), "r"(codes));
  asm("dp2a.hi.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x.pairs[2 * word + 1]), "r"(codes));
}
/// The same of codes that are unsigned bytes.
__device__ __forceinline__ void add_unsigned_products(std::uint32_t codes, const FixedX& x,
                                                      int word, int& sum) {
  asm("dp2a.lo.s32.u32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x.pairs[2 * word]), "r"(codes));
  asm("dp2a.hi.s32.u32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x.pairs[2 * word + 1]), "r"(codes));
}

/// What turns a chunk of x, the largest of which is `most`, into integers, and these into numbers.
struct FixedScale {
  float scale;
  float inverse;
};
__device__ __forceinline__ FixedScale fixed_scale(float most) {
  constexpr float kMost = 32767.0f;
  // Below, the inverse would overflow. NaN and infinities end up in the scale, and in the result.
  const bool nothing = most < 1e-30f;
  const float scale = most * (1 / kMost);
  const float inverse = near_inverse(scale);  // no integer is so large that it would matter
  return {nothing ? 0.0f : scale, nothing ? 0.0f : inverse};
}

/// Four columns of x, as FixedX has them, and their sum.
struct FixedQuad {
  std::uint32_t pairs[2];
  int sum;
};
__device__ __forceinline__ FixedQuad fixed_quad(const float4& v, float inverse) {
  // Adding 1.5 * 2^23 leaves an integer in the mantissa, if it is within 2^22.
  constexpr float kRound = 12582912.0f;
  constexpr std::uint32_t kRoundBits = 0x4b400000u;
  const float x[4] = {v.x, v.y, v.z, v.w};
  std::uint32_t n[4];
  FixedQuad quad;
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    n[b] = __float_as_uint(fmaf(x[b], inverse, kRound));  // the integer in its lower half
  }
  quad.sum = static_cast<int>(n[0] + n[1] + n[2] + n[3] - 4 * kRoundBits);
  quad.pairs[0] = __byte_perm(n[0], n[1], 0x5410u);
  quad.pairs[1] = __byte_perm(n[2], n[3], 0x5410u);
  return quad;
}

__device__ __forceinline__ float largest(const float4& v, float most) {
  most = larger(larger(most, fabsf(v.x)), fabsf(v.y));
  return larger(larger(most, fabsf(v.z)), fabsf(v.w));
}

/// `four(i)` reads columns 4 i .. 4 i + 3, i < 8; each is read twice, to keep few in registers.
template <class Four>
__device__ __forceinline__ FixedX fixed(const Four& four) {
  float most = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) most = largest(four(i), most);
  const FixedScale to = fixed_scale(most);
  FixedX x;
  x.scale = to.scale;
  int sums[2] = {0, 0};
#pragma unroll
  for (int u = 0; u < 8; ++u) {
    const FixedQuad quad = fixed_quad(four(u), to.inverse);
    x.pairs[2 * u] = quad.pairs[0];
    x.pairs[2 * u + 1] = quad.pairs[1];
    sums[u / 4] += quad.sum;
  }
  x.sum[0] = static_cast<float>(sums[0]);
  x.sum[1] = static_cast<float>(sums[1]);
  return x;
}

/// Sum of a chunk's numbers times x.
template <Dtype kDtype>
__device__ __forceinline__ float dot(const Chunk& chunk, const FixedX& x) {
  constexpr int kParts = kDtype == Dtype::q6_k ? 2 : 1;  // that have a scale each
  int sums[kParts] = {};
  int upper = 0;
  constexpr bool kNibbles = kDtype == Dtype::q4_0 || kDtype == Dtype::q4_1 || kDtype == Dtype::q4_k;
  if constexpr (kNibbles) {
    // The upper ones where they stand: 16 times as much, which one shift of the sum undoes.
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      add_unsigned_products(word_of(chunk.codes, v) & 0xf0f0f0f0u, x, 4 + v, upper);
    }
  }
#pragma unroll
  for (int v = 0; v < 4; ++v) {
#pragma unroll
    for (int half = 0; half < (kNibbles ? 1 : 2); ++half) {
      const int u = half * 4 + v;
      const uint4& words = kDtype == Dtype::q8_0 && half == 1 ? chunk.more_codes : chunk.codes;
      const std::uint32_t high = kDtype == Dtype::q6_k && half == 1 ? chunk.high.y : chunk.high.x;
      const std::uint32_t codes = codes_of<kDtype>(word_of(words, v), high, u);
      add_products(codes, x, u, sums[kParts == 2 ? half : 0]);
    }
  }
  if constexpr (kNibbles) sums[0] += upper >> 4;
  const auto first = static_cast<float>(sums[0]);  // in units of x.scale
  const Affine a = affine<kDtype>(chunk.scales, chunk.supers);
  constexpr float kZero = kZeroCode<kDtype>;
  if constexpr (kParts == 2) {
    const float second = a.scale[1] * fmaf(-kZero, x.sum[1], static_cast<float>(sums[1]));
    return x.scale * fmaf(a.scale[0], fmaf(-kZero, x.sum[0], first), second);
  } else if constexpr (kDtype == Dtype::q8_0 || kDtype == Dtype::iq4_nl) {
    return x.scale * (a.scale[0] * first);
  } else {
    const float all = x.sum[0] + x.sum[1];
    if constexpr (kZero != 0) return x.scale * (a.scale[0] * fmaf(-kZero, all, first));
    return x.scale * fmaf(a.scale[0], first, a.minimum * all);
  }
}

/// Eight columns of a row of any type, 8 * octet .., as numbers, rounded as format's dequantize_row
/// does. Plain rows end with zeros up to 16 bytes; the columns begin within the row.
template <Dtype kDtype>
__device__ __forceinline__ void numbers(const std::byte* row, const RowLayout& layout, int octet,
                                        float (&out)[8]) {
  if constexpr (kDtype == Dtype::f32) {
    const float4* from = reinterpret_cast<const float4*>(row) + 2 * octet;
    const float4 a = from[0];
    // The row may end between.
    const bool more = 16 * (2 * octet + 1) < layout.bytes;
    const float4 b = more ? from[1] : make_float4(0, 0, 0, 0);
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
  } else if constexpr (!is_quantized(kDtype)) {
    const uint4 piece = reinterpret_cast<const uint4*>(row)[octet];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t word = word_of(piece, i);
      if constexpr (kDtype == Dtype::bf16) {
        out[2 * i] = __uint_as_float(word << 16);
        out[2 * i + 1] = __uint_as_float(word & 0xffff0000u);
      } else {
        out[2 * i] = low_half(word);
        out[2 * i + 1] = high_half(word);
      }
    }
  } else {
    constexpr ChunkBytes kBytes = chunk_bytes(kDtype);
    const int c = octet / 4;
    const int half = octet / 2 % 2;
    const auto word_at = [](const std::byte* at) {
      return *reinterpret_cast<const std::uint32_t*>(at);
    };
    const auto short_at = [](const std::byte* at) {
      return static_cast<std::uint32_t>(*reinterpret_cast<const std::uint16_t*>(at));
    };
    const std::byte* codes = row + 16 * c + 8 * (octet % 2);
    if (kDtype == Dtype::q8_0) codes += half * (layout.high / 2);
    const uint2 words = *reinterpret_cast<const uint2*>(codes);
    std::uint32_t high = 0;
    if constexpr (kBytes.high == 4) high = word_at(row + layout.high + 4 * c);
    if constexpr (kBytes.high == 8) high = word_at(row + layout.high + 8 * c + 4 * half);
    std::uint32_t supers = 0;
    if constexpr (kBytes.supers == 4) supers = word_at(row + layout.supers + 4 * (c / 8));
    if constexpr (kBytes.supers == 2) supers = short_at(row + layout.supers + 2 * (c / 8));
    const std::byte* at = row + layout.scales + kBytes.scales * c;
    const std::uint32_t scales = kBytes.scales == 4 ? word_at(at) : short_at(at);
    const Affine a = affine<kDtype>(scales, supers);
    const float scale = half == 0 ? a.scale[0] : a.scale[1];
    const int u = 2 * (octet % 4);
    const std::uint32_t codes_at[2] = {codes_of<kDtype>(words.x, high, u),
                                       codes_of<kDtype>(words.y, high, u + 1)};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      // A byte becomes a float by being put into the mantissa of 2^23: 0x4b0000bb.
      const std::uint32_t raised = codes_at[i / 4] ^ 0x80808080u;
      const float biased = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7440u | i % 4));
      const float code = biased - static_cast<float>(8388608 + 128 + kZeroCode<kDtype>);
      out[i] = fmaf(scale, code, a.minimum);
    }
  }
}

}  // namespace sedpa::cuda
