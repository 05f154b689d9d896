#pragma once
// Cache rows as kernels read and write them: 16 numbers at a time, whatever the encoding
// (attention/kv_policy.h). Included by attention kernel sources alone (simd.h).
#include "sedpa/attention/kv_policy.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {

SEDPA_INLINE F32x16 broadcast_half(const void* from) {
  const auto bits = load_scalar<std::uint16_t>(from);
#if SEDPA_ISA_LEVEL == 2
  return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(bits)))};
#elif SEDPA_ISA_LEVEL == 1
  const __m256 eight = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(bits)));
  return {eight, eight};
#else
  return broadcast(f16_to_f32(bits));
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

/// The same for 16 bytes: 32 numbers.
SEDPA_INLINE void load_i4_twice(const void* from, F32x16& low, F32x16& high) {
#if SEDPA_ISA_LEVEL == 2
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i_u*>(from)));
  const __m256i pairs = _mm256_or_si256(wide, _mm256_slli_epi16(wide, 4));
  const __m256i codes =
      _mm256_sub_epi8(_mm256_and_si256(pairs, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
  low = {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)))};
  high = {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)))};
#else
  low = load_i4(from);
  high = load_i4(static_cast<const std::byte*>(from) + 8);
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

/// Asks for a row, into the second-level cache: asking for the first level costs more than it
/// brings, the rows then crowd out each other's requests.
SEDPA_INLINE void prefetch(const std::byte* row, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
}

/// Reads numbers [16 i, 16 i + 16) of a row, the `count` that are left of them, or for even i twice
/// as many, which then share a scale.
template <KvDtype kType>
struct RowReader {  // f32, f16, bf16
  explicit RowReader(std::int64_t /*dim*/) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    if constexpr (kType == KvDtype::f32) return load(row + 64 * i);
    if constexpr (kType == KvDtype::f16) return load_f16(row + 32 * i);
    if constexpr (kType == KvDtype::bf16) return load_bf16(row + 32 * i);
  }
  SEDPA_INLINE void two(const std::byte* row, std::int64_t i, F32x16& a, F32x16& b) const {
    a = (*this)(row, i);
    b = (*this)(row, i + 1);
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    if constexpr (kType == KvDtype::f32) return load_partial(row + 64 * i, count);
    if constexpr (kType == KvDtype::f16) return load_f16_partial(row + 32 * i, count);
    if constexpr (kType == KvDtype::bf16) return load_bf16_partial(row + 32 * i, count);
  }
};

SEDPA_INLINE std::int64_t scale_bytes(std::int64_t dim) {
  return 2 * ((dim + kKvBlock - 1) / kKvBlock);
}
/// The scale of numbers 16 i and on.
SEDPA_INLINE F32x16 row_scale(const std::byte* row, std::int64_t i) {
  return broadcast_half(row + 2 * (i / 2));
}

template <>
struct RowReader<KvDtype::q8> {
  explicit RowReader(std::int64_t dim) : codes(scale_bytes(dim)) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load_i8(row + codes + 16 * i) * row_scale(row, i);
  }
  SEDPA_INLINE void two(const std::byte* row, std::int64_t i, F32x16& a, F32x16& b) const {
    const F32x16 scale = row_scale(row, i);
    a = load_i8(row + codes + 16 * i) * scale;
    b = load_i8(row + codes + 16 * i + 16) * scale;
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
  explicit RowReader(std::int64_t dim) : codes(scale_bytes(dim)) {}
  SEDPA_INLINE F32x16 operator()(const std::byte* row, std::int64_t i) const {
    return load_i4(row + codes + 8 * i) * row_scale(row, i);
  }
  SEDPA_INLINE void two(const std::byte* row, std::int64_t i, F32x16& a, F32x16& b) const {
    const F32x16 scale = row_scale(row, i);
    load_i4_twice(row + codes + 8 * i, a, b);
    a = a * scale;
    b = b * scale;
  }
  SEDPA_INLINE F32x16 part(const std::byte* row, std::int64_t i, std::int64_t count) const {
    std::uint8_t bytes[8] = {0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};  // zeros
    std::memcpy(bytes, row + codes + 8 * i, static_cast<std::size_t>(count / 2));
    return load_i4(bytes) * row_scale(row, i);
  }
  std::int64_t codes;
};

/// CALL(KvDtype::...) for the dtype at hand.
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
