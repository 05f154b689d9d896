#pragma once
// simd.h for any machine: plain loops that the compiler turns into what it has. Slow and right.
// Included by simd.h alone; the comments on meaning stand in simd_avx512.h.
#include "sedpa/core/dtype.h"

#define SEDPA_LANES for (int i = 0; i < 16; ++i)

namespace sedpa::cpu::SEDPA_ISA {

inline constexpr int kAccumulators = 2;
inline constexpr int kTile = 2;
inline constexpr bool kNativeBf16 = false;

struct F32x16 {
  float v[16];
};
struct I32x16 {
  std::int32_t v[16];
};
struct U8x64 {
  std::uint8_t v[64];
};

// --- Floats -----------------------------------------------------------------------------------
SEDPA_INLINE F32x16 broadcast(float x) {
  F32x16 r;
  SEDPA_LANES r.v[i] = x;
  return r;
}
SEDPA_INLINE F32x16 zero() { return broadcast(0.0f); }
SEDPA_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  SEDPA_LANES a.v[i] += b.v[i];
  return a;
}
SEDPA_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  SEDPA_LANES a.v[i] -= b.v[i];
  return a;
}
SEDPA_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  SEDPA_LANES a.v[i] *= b.v[i];
  return a;
}
SEDPA_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  SEDPA_LANES a.v[i] /= b.v[i];
  return a;
}
SEDPA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  SEDPA_LANES c.v[i] += a.v[i] * b.v[i];
  return c;
}
SEDPA_INLINE F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  SEDPA_LANES c.v[i] -= a.v[i] * b.v[i];
  return c;
}
SEDPA_INLINE F32x16 max(F32x16 a, F32x16 b) {
  SEDPA_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
SEDPA_INLINE F32x16 min(F32x16 a, F32x16 b) {
  SEDPA_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
SEDPA_INLINE F32x16 abs(F32x16 a) {
  SEDPA_LANES a.v[i] = __builtin_fabsf(a.v[i]);
  return a;
}
SEDPA_INLINE F32x16 sqrt(F32x16 a) {
  SEDPA_LANES a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
/// Adding 1.5 * 2^23 leaves no bits below the point; larger numbers (and NaN) are whole already.
SEDPA_INLINE F32x16 round(F32x16 a) {
  constexpr float kMagic = 0x1.8p23f;
  SEDPA_LANES a.v[i] = __builtin_fabsf(a.v[i]) < 0x1p22f ? (a.v[i] + kMagic) - kMagic : a.v[i];
  return a;
}
SEDPA_INLINE F32x16 scale_by_power_of_two(F32x16 a, F32x16 n) {
  SEDPA_LANES {
    // NaN comes here too, and is put back by the caller.
    const std::int32_t whole =
        n.v[i] >= -126.0f && n.v[i] <= 128.0f ? static_cast<std::int32_t>(n.v[i]) : std::int32_t{0};
    a.v[i] *= __builtin_bit_cast(float, (whole + 127) << 23);
  }
  return a;
}
SEDPA_INLINE float reduce_sum(F32x16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
SEDPA_INLINE float reduce_max(F32x16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  }
  return a.v[0];
}

// --- Masks ------------------------------------------------------------------------------------
SEDPA_INLINE std::uint16_t less(F32x16 a, F32x16 b) {
  unsigned bits = 0;
  SEDPA_LANES bits |= static_cast<unsigned>(a.v[i] < b.v[i]) << i;
  return static_cast<std::uint16_t>(bits);
}
SEDPA_INLINE std::uint16_t unordered(F32x16 a) {
  unsigned bits = 0;
  SEDPA_LANES bits |= static_cast<unsigned>(a.v[i] != a.v[i]) << i;
  return static_cast<std::uint16_t>(bits);
}
SEDPA_INLINE F32x16 blend(std::uint16_t bits, F32x16 yes, F32x16 no) {
  SEDPA_LANES no.v[i] = ((bits >> i) & 1) != 0 ? yes.v[i] : no.v[i];
  return no;
}

// --- Loads and stores -------------------------------------------------------------------------
SEDPA_INLINE F32x16 load(const void* from) {
  F32x16 r;
  std::memcpy(r.v, from, sizeof r.v);
  return r;
}
SEDPA_INLINE void store(void* to, F32x16 a) { std::memcpy(to, a.v, sizeof a.v); }
SEDPA_INLINE F32x16 load_partial(const void* from, std::int64_t count) {
  F32x16 r = zero();
  std::memcpy(r.v, from, static_cast<std::size_t>(count >= 16 ? 16 : count) * 4);
  return r;
}
SEDPA_INLINE void store_partial(void* to, F32x16 a, std::int64_t count) {
  std::memcpy(to, a.v, static_cast<std::size_t>(count >= 16 ? 16 : count) * 4);
}
/// 2^112 takes a half's exponent, put where a float's stands, to its value; the halves below 2^-14
/// come out right too, as floats have room for them.
SEDPA_INLINE float from_f16_bits(std::uint32_t half) {
  const std::uint32_t magnitude = (half & 0x7fffu) << 13;
  const float value = __builtin_bit_cast(float, magnitude) * 0x1p112f;
  const std::uint32_t bits =
      magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : __builtin_bit_cast(std::uint32_t, value);
  return __builtin_bit_cast(float, bits | ((half & 0x8000u) << 16));
}
SEDPA_INLINE F32x16 load_f16_partial(const void* from, std::int64_t count) {
  std::uint16_t bits[16] = {};
  std::memcpy(bits, from, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
  F32x16 r;
  SEDPA_LANES r.v[i] = from_f16_bits(bits[i]);
  return r;
}
SEDPA_INLINE F32x16 load_f16(const void* from) { return load_f16_partial(from, 16); }
SEDPA_INLINE F32x16 load_bf16_partial(const void* from, std::int64_t count) {
  std::uint16_t bits[16] = {};
  std::memcpy(bits, from, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
  F32x16 r;
  SEDPA_LANES r.v[i] = __builtin_bit_cast(float, static_cast<std::uint32_t>(bits[i]) << 16);
  return r;
}
SEDPA_INLINE F32x16 load_bf16(const void* from) { return load_bf16_partial(from, 16); }
SEDPA_INLINE void split_pairs(const void* from, F32x16& first, F32x16& second) {
  std::uint32_t bits[16];
  std::memcpy(bits, from, sizeof bits);
  SEDPA_LANES {
    first.v[i] = __builtin_bit_cast(float, bits[i] << 16);
    second.v[i] = __builtin_bit_cast(float, bits[i] & 0xffff0000u);
  }
}
SEDPA_INLINE F32x16 load_i8(const void* from) {
  std::int8_t bytes[16];
  std::memcpy(bytes, from, sizeof bytes);
  F32x16 r;
  SEDPA_LANES r.v[i] = bytes[i];
  return r;
}
SEDPA_INLINE F32x16 load_u8(const void* from) {
  std::uint8_t bytes[16];
  std::memcpy(bytes, from, sizeof bytes);
  F32x16 r;
  SEDPA_LANES r.v[i] = bytes[i];
  return r;
}
SEDPA_INLINE void store_f16_partial(void* to, F32x16 a, std::int64_t count) {
  std::uint16_t bits[16];
  SEDPA_LANES bits[i] = f32_to_f16(a.v[i]);
  std::memcpy(to, bits, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
}
SEDPA_INLINE void store_f16(void* to, F32x16 a) { store_f16_partial(to, a, 16); }
SEDPA_INLINE std::uint32_t bf16_bits(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return (value != value ? bits | 0x400000u : rounded) >> 16;
}
SEDPA_INLINE void store_bf16_partial(void* to, F32x16 a, std::int64_t count) {
  std::uint16_t bits[16];
  SEDPA_LANES bits[i] = static_cast<std::uint16_t>(bf16_bits(a.v[i]));
  std::memcpy(to, bits, static_cast<std::size_t>(count >= 16 ? 16 : count) * 2);
}
SEDPA_INLINE void store_bf16(void* to, F32x16 a) { store_bf16_partial(to, a, 16); }

// --- Ints -------------------------------------------------------------------------------------
/// Sums wrap around, as vectors do.
SEDPA_INLINE std::int32_t wrap(std::uint32_t x) { return static_cast<std::int32_t>(x); }
SEDPA_INLINE I32x16 broadcast_int(std::int32_t x) {
  I32x16 r;
  SEDPA_LANES r.v[i] = x;
  return r;
}
SEDPA_INLINE I32x16 zero_int() { return broadcast_int(0); }
SEDPA_INLINE I32x16 operator+(I32x16 a, I32x16 b) {
  SEDPA_LANES a.v[i] =
      wrap(static_cast<std::uint32_t>(a.v[i]) + static_cast<std::uint32_t>(b.v[i]));
  return a;
}
SEDPA_INLINE I32x16 operator-(I32x16 a, I32x16 b) {
  SEDPA_LANES a.v[i] =
      wrap(static_cast<std::uint32_t>(a.v[i]) - static_cast<std::uint32_t>(b.v[i]));
  return a;
}
template <int kBits>
SEDPA_INLINE I32x16 shift_left(I32x16 a) {
  SEDPA_LANES a.v[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) << kBits);
  return a;
}
SEDPA_INLINE F32x16 to_float(I32x16 a) {
  F32x16 r;
  SEDPA_LANES r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
SEDPA_INLINE I32x16 to_int(F32x16 a) {
  const F32x16 whole = round(a);
  I32x16 r;
  SEDPA_LANES {
    // As the vector conversions have it: what no int can hold (and NaN) is the smallest.
    const bool fits = whole.v[i] >= -0x1p31f && whole.v[i] < 0x1p31f;
    r.v[i] = fits ? static_cast<std::int32_t>(whole.v[i]) : INT32_MIN;
  }
  return r;
}
SEDPA_INLINE std::int32_t reduce_sum(I32x16 a) {
  std::uint32_t sum = 0;
  SEDPA_LANES sum += static_cast<std::uint32_t>(a.v[i]);
  return wrap(sum);
}
SEDPA_INLINE void store_i8(void* to, I32x16 a) {
  std::int8_t bytes[16];
  SEDPA_LANES bytes[i] = static_cast<std::int8_t>(a.v[i]);
  std::memcpy(to, bytes, sizeof bytes);
}

SEDPA_INLINE I32x16 load_ints(const void* from) {
  I32x16 r;
  std::memcpy(r.v, from, sizeof r.v);
  return r;
}

// --- Bytes ------------------------------------------------------------------------------------
SEDPA_INLINE U8x64 load_bytes(const void* from) {
  U8x64 r;
  std::memcpy(r.v, from, sizeof r.v);
  return r;
}
SEDPA_INLINE U8x64 operator&(U8x64 a, U8x64 b) {
  for (int i = 0; i < 64; ++i) a.v[i] &= b.v[i];
  return a;
}
SEDPA_INLINE U8x64 operator|(U8x64 a, U8x64 b) {
  for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
  return a;
}
SEDPA_INLINE U8x64 broadcast_byte(std::uint8_t x) {
  U8x64 r;
  for (int i = 0; i < 64; ++i) r.v[i] = x;
  return r;
}
/// What the vector shifts carry over from the neighbour byte, these do not; callers mask it away.
template <int kBits>
SEDPA_INLINE U8x64 shift_right(U8x64 a) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] >> kBits);
  return a;
}
template <int kBits>
SEDPA_INLINE U8x64 shift_left(U8x64 a) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] << kBits);
  return a;
}
SEDPA_INLINE U8x64 lookup(const std::uint8_t* table, U8x64 a) {
  for (int i = 0; i < 64; ++i) a.v[i] = table[a.v[i]];
  return a;
}

// --- Products of bytes ------------------------------------------------------------------------
SEDPA_INLINE I32x16 dot4(I32x16 sum, U8x64 w, const std::int8_t* x) {
  for (int i = 0; i < 64; ++i) sum.v[i / 4] += w.v[i] * x[i % 4];
  return sum;
}
SEDPA_INLINE I32x16 dot4_centred_start(std::int32_t minus_sum) {
  return broadcast_int(minus_sum * 128);
}
SEDPA_INLINE I32x16 dot4_centred(I32x16 sum, U8x64 w, const std::int8_t* x) {
  return dot4(sum, w, x);
}

}  // namespace sedpa::cpu::SEDPA_ISA
