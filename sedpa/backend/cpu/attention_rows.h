#pragma once
// Cache rows as kernels read and write them: 16 numbers at a time, whatever the encoding
// (attention/kv_policy.h). Included by attention kernel sources alone (simd.h).
#include "sedpa/attention/kv_policy.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {

SEDPA_INLINE float half_to_float(std::uint16_t bits) {
#if SEDPA_ISA_LEVEL >= 1
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
#else
  return f16_to_f32(bits);
#endif
}

/// 8 bytes of two 4-bit codes each (value + 8), low half first.
SEDPA_INLINE F32x16 load_i4(const void* from) {
#if SEDPA_ISA_LEVEL >= 1
  const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i_u*>(from));
  const __m128i wide = _mm_cvtepu8_epi16(bytes);
  const __m128i pairs = _mm_or_si128(wide, _mm_slli_epi16(wide, 4));
  const __m128i codes = _mm_sub_epi8(_mm_and_si128(pairs, _mm_set1_epi8(15)), _mm_set1_epi8(8));
#if SEDPA_ISA_LEVEL == 2
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))};
#else
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)))};
#endif
#else
  const auto* bytes = static_cast<const std::uint8_t*>(from);
  float codes[16];
  for (int i = 0; i < 8; ++i) {
    codes[2 * i] = static_cast<float>((bytes[i] & 15) - 8);
    codes[2 * i + 1] = static_cast<float>((bytes[i] >> 4) - 8);
  }
  return load(codes);
#endif
}

/// Asks for a row's first lines.
SEDPA_INLINE void prefetch(const std::byte* row, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i);
}

/// Reads numbers [16 i, 16 i + 16) of a row, or the `count` that are left of them.
template <KvDtype kType>
struct RowReader;

template <>
struct RowReader<KvDtype::f32> {
  explicit RowReader(std::int64_t /*dim*/) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load(row + 64 * i);
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    return load_partial(row + 64 * i, count);
  }
};

template <>
struct RowReader<KvDtype::f16> {
  explicit RowReader(std::int64_t /*dim*/) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load_f16(row + 32 * i);
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    return load_f16_partial(row + 32 * i, count);
  }
};

template <>
struct RowReader<KvDtype::bf16> {
  explicit RowReader(std::int64_t /*dim*/) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load_bf16(row + 32 * i);
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    return load_bf16_partial(row + 32 * i, count);
  }
};

SEDPA_INLINE F32x16 row_scale(const std::byte* row, std::int64_t i) {
  return broadcast(half_to_float(load_scalar<std::uint16_t>(row + 2 * (i / 2))));
}

template <>
struct RowReader<KvDtype::q8> {
  explicit RowReader(std::int64_t dim) : codes(2 * ((dim + kKvBlock - 1) / kKvBlock)) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load_i8(row + codes + 16 * i) * row_scale(row, i);
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    std::byte bytes[16] = {};
    std::memcpy(bytes, row + codes + 16 * i, static_cast<std::size_t>(count));
    return load_i8(bytes) * row_scale(row, i);
  }
  std::int64_t codes;  // where they begin
};

template <>
struct RowReader<KvDtype::q4> {
  explicit RowReader(std::int64_t dim) : codes(2 * ((dim + kKvBlock - 1) / kKvBlock)) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load_i4(row + codes + 8 * i) * row_scale(row, i);
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    std::uint8_t bytes[8] = {0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};  // zeros
    std::memcpy(bytes, row + codes + 8 * i, static_cast<std::size_t>(count / 2));
    return load_i4(bytes) * row_scale(row, i);
  }
  std::int64_t codes;
};

/// Calls body.template operator()<kType>() for the dtype at hand.
#define SEDPA_FOR_KV_DTYPE(dtype, CALL) \
  switch (dtype) {                      \
    case KvDtype::f32:                  \
      CALL(KvDtype::f32);               \
      break;                            \
    case KvDtype::f16:                  \
      CALL(KvDtype::f16);               \
      break;                            \
    case KvDtype::bf16:                 \
      CALL(KvDtype::bf16);              \
      break;                            \
    case KvDtype::q8:                   \
      CALL(KvDtype::q8);                \
      break;                            \
    case KvDtype::q4:                   \
      CALL(KvDtype::q4);                \
      break;                            \
  }

}  // namespace sedpa::cpu::SEDPA_ISA
