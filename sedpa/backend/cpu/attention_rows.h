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

/// Rows to columns, 16 x 16.
SEDPA_INLINE void transpose(F32x16 (&rows)[16]) {
#if SEDPA_ISA_LEVEL == 2
  __m512 pairs[16];  // within each quarter: 2 x 2 blocks of two rows
  SEDPA_UNROLL for (int i = 0; i < 8; ++i) {
    pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i].v, rows[2 * i + 1].v);
    pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i].v, rows[2 * i + 1].v);
  }
  __m512 quads[16];  // quads[4 i + c], quarter q: rows 4 i .. 4 i + 3 of column 4 q + c
  SEDPA_UNROLL for (int i = 0; i < 4; ++i) {
    SEDPA_UNROLL for (int c = 0; c < 2; ++c) {
      const __m512 low = pairs[4 * i + c];
      const __m512 high = pairs[4 * i + 2 + c];
      quads[4 * i + 2 * c] = _mm512_shuffle_ps(low, high, _MM_SHUFFLE(1, 0, 1, 0));
      quads[4 * i + 2 * c + 1] = _mm512_shuffle_ps(low, high, _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
  SEDPA_UNROLL for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xdd);
    const __m512 e = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xdd);
    rows[c].v = _mm512_shuffle_f32x4(a, b, 0x88);
    rows[8 + c].v = _mm512_shuffle_f32x4(a, b, 0xdd);
    rows[4 + c].v = _mm512_shuffle_f32x4(d, e, 0x88);
    rows[12 + c].v = _mm512_shuffle_f32x4(d, e, 0xdd);
  }
#else
  float from[16][16];
  for (int i = 0; i < 16; ++i) store(from[i], rows[i]);
  for (int i = 0; i < 16; ++i) {
    float column[16];
    for (int j = 0; j < 16; ++j) column[j] = from[j][i];
    rows[i] = load(column);
  }
#endif
}

/// Lanes 0-7 to one place, lanes 8-15 to another.
SEDPA_INLINE void store_halves(void* low, void* high, F32x16 a) {
#if SEDPA_ISA_LEVEL == 2
  _mm256_storeu_ps(static_cast<float*>(low), _mm512_castps512_ps256(a.v));
  _mm256_storeu_ps(static_cast<float*>(high), _mm512_extractf32x8_ps(a.v, 1));
#else
  store_partial(low, a, 8);
  float all[16];
  store(all, a);
  std::memcpy(high, all + 8, 32);
#endif
}

/// Asks for a row. kLocality: 3 to all caches, 2 to the second level.
template <int kLocality>
SEDPA_INLINE void prefetch(const std::byte* row, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, kLocality);
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
