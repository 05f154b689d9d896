#pragma once
// simd.h for AVX2 with FMA and F16C: each vector is two registers. Included by simd.h alone; the
// comments on meaning stand in simd_avx512.h.
#include <immintrin.h>

namespace sedpa::cpu::SEDPA_ISA {

inline constexpr int kAccumulators = 6;
inline constexpr int kTile = 6;
inline constexpr bool kNativeBf16 = false;

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};
struct U8x64 {
  __m256i lo, hi;
};

// --- Floats -----------------------------------------------------------------------------------
SEDPA_INLINE F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
SEDPA_INLINE F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
SEDPA_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
SEDPA_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
SEDPA_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
SEDPA_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
SEDPA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
SEDPA_INLINE F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
SEDPA_INLINE F32x16 max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
SEDPA_INLINE F32x16 min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
SEDPA_INLINE F32x16 abs(F32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
SEDPA_INLINE F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
SEDPA_INLINE F32x16 round(F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
SEDPA_INLINE __m256 power_of_two(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
SEDPA_INLINE F32x16 scale_by_power_of_two(F32x16 a, F32x16 n) {
  return {_mm256_mul_ps(a.lo, power_of_two(n.lo)), _mm256_mul_ps(a.hi, power_of_two(n.hi))};
}
SEDPA_INLINE float reduce_sum(F32x16 a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
SEDPA_INLINE float reduce_max(F32x16 a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
SEDPA_INLINE void reduce_max_4(const F32x16 (&a)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = reduce_max(a[i]);
}

// --- Masks ------------------------------------------------------------------------------------
SEDPA_INLINE std::uint16_t mask_bits(__m256 lo, __m256 hi) {
  return static_cast<std::uint16_t>(_mm256_movemask_ps(lo) | (_mm256_movemask_ps(hi) << 8));
}
SEDPA_INLINE std::uint16_t less(F32x16 a, F32x16 b) {
  return mask_bits(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ));
}
SEDPA_INLINE std::uint16_t unordered(F32x16 a) {
  return mask_bits(_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q),
                   _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q));
}
/// All ones in the lanes whose bit is set.
SEDPA_INLINE __m256i lane_mask(unsigned bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
  return _mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane);
}
SEDPA_INLINE F32x16 blend(std::uint16_t bits, F32x16 yes, F32x16 no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_castsi256_ps(lane_mask(bits))),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_castsi256_ps(lane_mask(bits >> 8)))};
}

// --- Loads and stores -------------------------------------------------------------------------
SEDPA_INLINE F32x16 load(const void* from) {
  const auto* p = static_cast<const float*>(from);
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
SEDPA_INLINE void store(void* to, F32x16 a) {
  auto* p = static_cast<float*>(to);
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
SEDPA_INLINE F32x16 load_partial(const void* from, std::int64_t count) {
  float all[16] = {};
  std::memcpy(all, from, static_cast<std::size_t>(count >= 16 ? 16 : count) * 4);
  return load(all);
}
SEDPA_INLINE void store_partial(void* to, F32x16 a, std::int64_t count) {
  float all[16];
  store(all, a);
  std::memcpy(to, all, static_cast<std::size_t>(count >= 16 ? 16 : count) * 4);
}
SEDPA_INLINE __m128i load_128(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i_u*>(from));
}
SEDPA_INLINE F32x16 load_f16(const void* from) {
  const auto* p = static_cast<const std::byte*>(from);
  return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 16))};
}
SEDPA_INLINE F32x16 load_f16_partial(const void* from, std::int64_t count) {
  std::uint16_t all[16] = {};
  std::memcpy(all, from, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
  return load_f16(all);
}
SEDPA_INLINE __m256 from_bf16_bits(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SEDPA_INLINE F32x16 load_bf16(const void* from) {
  const auto* p = static_cast<const std::byte*>(from);
  return {from_bf16_bits(load_128(p)), from_bf16_bits(load_128(p + 16))};
}
SEDPA_INLINE F32x16 load_bf16_partial(const void* from, std::int64_t count) {
  std::uint16_t all[16] = {};
  std::memcpy(all, from, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
  return load_bf16(all);
}
SEDPA_INLINE void split_pairs(const void* from, F32x16& first, F32x16& second) {
  const auto* p = static_cast<const __m256i_u*>(from);
  const __m256i lo = _mm256_loadu_si256(p);
  const __m256i hi = _mm256_loadu_si256(p + 1);
  const __m256i upper = _mm256_set1_epi32(-65536);
  first = {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
           _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  second = {_mm256_castsi256_ps(_mm256_and_si256(lo, upper)),
            _mm256_castsi256_ps(_mm256_and_si256(hi, upper))};
}
SEDPA_INLINE F32x16 load_i8(const void* from) {
  const __m128i bytes = load_128(from);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
SEDPA_INLINE F32x16 load_u8(const void* from) {
  const __m128i bytes = load_128(from);
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
SEDPA_INLINE void store_f16(void* to, F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  auto* p = static_cast<std::byte*>(to);
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p), _mm256_cvtps_ph(a.lo, kMode));
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p + 16), _mm256_cvtps_ph(a.hi, kMode));
}
SEDPA_INLINE void store_f16_partial(void* to, F32x16 a, std::int64_t count) {
  std::uint16_t all[16];
  store_f16(all, a);
  std::memcpy(to, all, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
}
/// bf16 bits, rounded to nearest even, in the low half of each lane.
SEDPA_INLINE __m256i bf16_bits(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan)), 16);
}
SEDPA_INLINE void store_bf16(void* to, F32x16 a) {
  const __m256i packed = _mm256_packus_epi32(bf16_bits(a.lo), bf16_bits(a.hi));
  _mm256_storeu_si256(static_cast<__m256i_u*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
}
SEDPA_INLINE void store_bf16_partial(void* to, F32x16 a, std::int64_t count) {
  std::uint16_t all[16];
  store_bf16(all, a);
  std::memcpy(to, all, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
}

// --- Ints -------------------------------------------------------------------------------------
SEDPA_INLINE I32x16 zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
SEDPA_INLINE I32x16 broadcast_int(std::int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
SEDPA_INLINE I32x16 operator+(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
SEDPA_INLINE I32x16 operator-(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
template <int kBits>
SEDPA_INLINE I32x16 shift_left(I32x16 a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
SEDPA_INLINE F32x16 to_float(I32x16 a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
SEDPA_INLINE I32x16 to_int(F32x16 a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
SEDPA_INLINE std::int32_t reduce_sum(I32x16 a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_srli_si128(four, 8));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_srli_si128(four, 4)));
}
SEDPA_INLINE void reduce_sum_4(const I32x16 (&a)[4], std::int32_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = reduce_sum(a[i]);
}

SEDPA_INLINE I32x16 load_ints(const void* from) {
  const auto* p = static_cast<const __m256i_u*>(from);
  return {_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1)};
}

// --- Bytes ------------------------------------------------------------------------------------
SEDPA_INLINE U8x64 load_bytes(const void* from) {
  const auto* p = static_cast<const std::byte*>(from);
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p + 32))};
}
SEDPA_INLINE U8x64 operator&(U8x64 a, U8x64 b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
SEDPA_INLINE U8x64 operator|(U8x64 a, U8x64 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
SEDPA_INLINE U8x64 broadcast_byte(std::uint8_t x) {
  const __m256i all = _mm256_set1_epi8(static_cast<char>(x));
  return {all, all};
}
template <int kBits>
SEDPA_INLINE U8x64 shift_right(U8x64 a) {
  return {_mm256_srli_epi16(a.lo, kBits), _mm256_srli_epi16(a.hi, kBits)};
}
template <int kBits>
SEDPA_INLINE U8x64 shift_left(U8x64 a) {
  return {_mm256_slli_epi16(a.lo, kBits), _mm256_slli_epi16(a.hi, kBits)};
}
SEDPA_INLINE U8x64 lookup(const std::uint8_t* table, U8x64 a) {
  const __m256i row = _mm256_broadcastsi128_si256(load_128(table));
  return {_mm256_shuffle_epi8(row, a.lo), _mm256_shuffle_epi8(row, a.hi)};
}

// --- Products of pairs of 16-bit numbers --------------------------------------------------------
/// 16 lanes of two numbers.
struct I16x32 {
  __m256i lo, hi;
};
SEDPA_INLINE I16x32 broadcast_word(std::int16_t x) {
  return {_mm256_set1_epi16(x), _mm256_set1_epi16(x)};
}
SEDPA_INLINE I16x32 operator-(I16x32 a, I16x32 b) {
  return {_mm256_sub_epi16(a.lo, b.lo), _mm256_sub_epi16(a.hi, b.hi)};
}
/// Bytes 0 and 2 of each lane, or 1 and 3.
SEDPA_INLINE I16x32 even_bytes(U8x64 a) {
  const __m256i low = _mm256_set1_epi16(0xff);
  return {_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low)};
}
SEDPA_INLINE I16x32 odd_bytes(U8x64 a) {
  return {_mm256_srli_epi16(a.lo, 8), _mm256_srli_epi16(a.hi, 8)};
}
/// Adds to each lane the product of its two numbers with the two at x.
SEDPA_INLINE I32x16 dot2(I32x16 sum, I16x32 w, const void* x) {
  const __m256i pair = _mm256_set1_epi32(load_scalar<std::int32_t>(x));
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, pair)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, pair))};
}
/// As 16-bit numbers, of each four 0, 2, 1, 3.
SEDPA_INLINE void store_crossed_words(void* to, I32x16 a) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  const __m256i crossed = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);
  _mm256_storeu_si256(static_cast<__m256i_u*>(to), crossed);
}

}  // namespace sedpa::cpu::SEDPA_ISA
