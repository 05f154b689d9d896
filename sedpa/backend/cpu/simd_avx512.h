#pragma once
// simd.h for AVX-512 with VNNI and BF16. Included by simd.h alone.
#include <immintrin.h>

namespace sedpa::cpu::SEDPA_ISA {

/// Registers that accumulators may take, in vectors of 16 lanes.
inline constexpr int kAccumulators = 24;
/// The most tokens that one micro-kernel works on.
inline constexpr int kTile = 12;
inline constexpr bool kNativeBf16 = true;

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};
struct U8x64 {
  __m512i v;
};

// --- Floats -----------------------------------------------------------------------------------
SEDPA_INLINE F32x16 zero() { return {_mm512_setzero_ps()}; }
SEDPA_INLINE F32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
SEDPA_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
SEDPA_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SEDPA_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
SEDPA_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
/// a b + c
SEDPA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/// c - a b
SEDPA_INLINE F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
SEDPA_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
SEDPA_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
SEDPA_INLINE F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
SEDPA_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
/// To the nearest whole number, halves to even.
SEDPA_INLINE F32x16 round(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/// a 2^n for whole n; 2^n is a normal number.
SEDPA_INLINE F32x16 scale_by_power_of_two(F32x16 a, F32x16 n) {
  return {_mm512_scalef_ps(a.v, n.v)};
}
SEDPA_INLINE float reduce_sum(F32x16 a) { return _mm512_reduce_add_ps(a.v); }
SEDPA_INLINE float reduce_max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }
/// The largest of each of four vectors, or the sum: cheaper than one by one. out [4]
SEDPA_INLINE void reduce_max_4(const F32x16 (&a)[4], float* out) {
  const __m512 ab =
      _mm512_max_ps(_mm512_unpacklo_ps(a[0].v, a[1].v), _mm512_unpackhi_ps(a[0].v, a[1].v));
  const __m512 cd =
      _mm512_max_ps(_mm512_unpacklo_ps(a[2].v, a[3].v), _mm512_unpackhi_ps(a[2].v, a[3].v));
  const __m512 four =
      _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 two = _mm256_max_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
  _mm_storeu_ps(out, _mm_max_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

// --- Masks ------------------------------------------------------------------------------------
SEDPA_INLINE std::uint16_t less(F32x16 a, F32x16 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
}
/// Lanes that hold NaN.
SEDPA_INLINE std::uint16_t unordered(F32x16 a) {
  return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
}
/// Lanes of `yes` where the bit is set, else of `no`.
SEDPA_INLINE F32x16 blend(std::uint16_t bits, F32x16 yes, F32x16 no) {
  return {_mm512_mask_blend_ps(bits, no.v, yes.v)};
}

// --- Loads and stores -------------------------------------------------------------------------
SEDPA_INLINE F32x16 load(const void* from) { return {_mm512_loadu_ps(from)}; }
SEDPA_INLINE void store(void* to, F32x16 a) { _mm512_storeu_ps(to, a.v); }
/// The first `count` numbers, 0 <= count <= 16; the other lanes are 0 and are not touched.
SEDPA_INLINE F32x16 load_partial(const void* from, std::int64_t count) {
  return {_mm512_maskz_loadu_ps(first_lanes(count), from)};
}
SEDPA_INLINE void store_partial(void* to, F32x16 a, std::int64_t count) {
  _mm512_mask_storeu_ps(to, first_lanes(count), a.v);
}
SEDPA_INLINE F32x16 load_f16(const void* from) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i_u*>(from)))};
}
SEDPA_INLINE F32x16 load_f16_partial(const void* from, std::int64_t count) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), from))};
}
SEDPA_INLINE F32x16 from_bf16_bits(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
SEDPA_INLINE F32x16 load_bf16(const void* from) {
  return from_bf16_bits(_mm256_loadu_si256(static_cast<const __m256i_u*>(from)));
}
SEDPA_INLINE F32x16 load_bf16_partial(const void* from, std::int64_t count) {
  return from_bf16_bits(_mm256_maskz_loadu_epi16(first_lanes(count), from));
}
/// 16 pairs of bf16 as their first and their second numbers.
SEDPA_INLINE void split_pairs(const void* from, F32x16& first, F32x16& second) {
  const __m512i bits = _mm512_loadu_si512(from);
  first = {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
  second = {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(-65536)))};
}
SEDPA_INLINE F32x16 load_i8(const void* from) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i_u*>(from));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
SEDPA_INLINE F32x16 load_u8(const void* from) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i_u*>(from));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
SEDPA_INLINE __m256i bf16_bits(F32x16 a) {
  return __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(a.v));
}
SEDPA_INLINE void store_f16(void* to, F32x16 a) {
  _mm256_storeu_si256(static_cast<__m256i_u*>(to),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SEDPA_INLINE void store_f16_partial(void* to, F32x16 a, std::int64_t count) {
  _mm256_mask_storeu_epi16(to, first_lanes(count),
                           _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SEDPA_INLINE void store_bf16(void* to, F32x16 a) {
  _mm256_storeu_si256(static_cast<__m256i_u*>(to), bf16_bits(a));
}
SEDPA_INLINE void store_bf16_partial(void* to, F32x16 a, std::int64_t count) {
  _mm256_mask_storeu_epi16(to, first_lanes(count), bf16_bits(a));
}

// --- Ints -------------------------------------------------------------------------------------
SEDPA_INLINE I32x16 zero_int() { return {_mm512_setzero_si512()}; }
SEDPA_INLINE I32x16 broadcast_int(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
SEDPA_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
SEDPA_INLINE I32x16 operator-(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int kBits>
SEDPA_INLINE I32x16 shift_left(I32x16 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
SEDPA_INLINE F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
/// To the nearest int, halves to even.
SEDPA_INLINE I32x16 to_int(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
/// Wraps around: not _mm512_reduce_add_epi32, which GCC adds up in signed arithmetic.
SEDPA_INLINE std::int32_t reduce_sum(I32x16 a) {
  const __m256i eight =
      _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_srli_si128(four, 8));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_srli_si128(four, 4)));
}
SEDPA_INLINE void reduce_sum_4(const I32x16 (&a)[4], std::int32_t* out) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0].v, a[1].v),
                                      _mm512_unpackhi_epi32(a[0].v, a[1].v));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2].v, a[3].v),
                                      _mm512_unpackhi_epi32(a[2].v, a[3].v));
  const __m512i four =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i two =
      _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti32x8_epi32(four, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
}
/// 16 ints in [-128, 127] as bytes.
SEDPA_INLINE void store_i8(void* to, I32x16 a) {
  _mm_storeu_si128(static_cast<__m128i_u*>(to), _mm512_cvtepi32_epi8(a.v));
}

SEDPA_INLINE I32x16 load_ints(const void* from) { return {_mm512_loadu_si512(from)}; }

// --- Bytes ------------------------------------------------------------------------------------
SEDPA_INLINE U8x64 load_bytes(const void* from) { return {_mm512_loadu_si512(from)}; }
SEDPA_INLINE U8x64 operator&(U8x64 a, U8x64 b) { return {_mm512_and_si512(a.v, b.v)}; }
SEDPA_INLINE U8x64 operator|(U8x64 a, U8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
SEDPA_INLINE U8x64 broadcast_byte(std::uint8_t x) {
  return {_mm512_set1_epi8(static_cast<char>(x))};
}
/// Shifts 16-bit halves: mask the result to the bits that stay inside their byte.
template <int kBits>
SEDPA_INLINE U8x64 shift_right(U8x64 a) {
  return {_mm512_srli_epi16(a.v, kBits)};
}
template <int kBits>
SEDPA_INLINE U8x64 shift_left(U8x64 a) {
  return {_mm512_slli_epi16(a.v, kBits)};
}
/// table[a] for bytes a < 16. table [16].
SEDPA_INLINE U8x64 lookup(const std::uint8_t* table, U8x64 a) {
  const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(row), a.v)};
}

// --- Products of bytes: a lane's 4 codes times the 4 numbers at x, for all lanes --------------
SEDPA_INLINE __m512i broadcast_4(const void* x) {
  return _mm512_set1_epi32(load_scalar<std::int32_t>(x));
}
/// sum + w x. Codes in [0, 127], x signed bytes in [-127, 127].
SEDPA_INLINE I32x16 dot4(I32x16 sum, U8x64 w, const std::int8_t* x) {
  return {_mm512_dpbusd_epi32(sum.v, w.v, broadcast_4(x))};
}
/// The same for codes w = value + 128 of signed bytes: start with dot4_centred_start(-sum of all x)
/// and the total is the product of the values.
SEDPA_INLINE I32x16 dot4_centred_start(std::int32_t minus_sum) {
  return {_mm512_slli_epi32(_mm512_set1_epi32(minus_sum), 7)};
}
SEDPA_INLINE I32x16 dot4_centred(I32x16 sum, U8x64 w, const std::int8_t* x) {
  return dot4(sum, w, x);
}

// --- Products of bf16 pairs -------------------------------------------------------------------
/// 16 lanes of two bf16 numbers.
struct Bf16x32 {
  __m512bh v;
};
SEDPA_INLINE Bf16x32 load_pairs(const void* from) {
  return {__builtin_bit_cast(__m512bh, _mm512_loadu_si512(from))};
}
SEDPA_INLINE Bf16x32 broadcast_pair(const void* from) {
  return {__builtin_bit_cast(__m512bh, broadcast_4(from))};
}
/// sum + a0 b0 + a1 b1
SEDPA_INLINE F32x16 dot2(F32x16 sum, Bf16x32 a, Bf16x32 b) {
  return {_mm512_dpbf16_ps(sum.v, a.v, b.v)};
}
/// Lane i: (low[i], high[i]), rounded.
SEDPA_INLINE Bf16x32 make_pairs(F32x16 low, F32x16 high) {
  const __m512i a = _mm512_cvtepu16_epi32(bf16_bits(low));
  const __m512i b = _mm512_cvtepu16_epi32(bf16_bits(high));
  return {__builtin_bit_cast(__m512bh, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)))};
}
SEDPA_INLINE void store_pairs(void* to, Bf16x32 a) {
  _mm512_storeu_si512(to, __builtin_bit_cast(__m512i, a.v));
}

}  // namespace sedpa::cpu::SEDPA_ISA
