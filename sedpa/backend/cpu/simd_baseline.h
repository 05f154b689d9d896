#pragma once
// simd.h for any machine: each vector is four of 16 bytes, in the compilers' own vector arithmetic.
// Included by simd.h alone; the comments on meaning stand in simd_avx512.h.
#include "sedpa/core/dtype.h"

namespace sedpa::cpu::SEDPA_ISA {

inline constexpr int kAccumulators = 2;
inline constexpr int kTile = 2;
inline constexpr bool kNativeBf16 = false;

typedef float F32x4 __attribute__((vector_size(16)));
typedef std::int32_t I32x4 __attribute__((vector_size(16)));
typedef std::uint32_t U32x4 __attribute__((vector_size(16)));
typedef std::int16_t I16x8 __attribute__((vector_size(16)));
typedef std::uint8_t U8x16 __attribute__((vector_size(16)));

/// Four quarters, to which a function of one is applied.
template <class V>
struct Quarters {
  V a, b, c, d;
};
using F32x16 = Quarters<F32x4>;
using I32x16 = Quarters<I32x4>;
using U8x64 = Quarters<U8x16>;

template <class V, class F>
SEDPA_INLINE auto each(const Quarters<V>& x, F f) -> Quarters<decltype(f(x.a))> {
  return {f(x.a), f(x.b), f(x.c), f(x.d)};
}
template <class V, class W, class F>
SEDPA_INLINE auto each(const Quarters<V>& x, const Quarters<W>& y, F f)
    -> Quarters<decltype(f(x.a, y.a))> {
  return {f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)};
}
#define SEDPA_QUARTER [](auto x) __attribute__((always_inline))
#define SEDPA_QUARTERS [](auto x, auto y) __attribute__((always_inline))

template <class To, class From>
SEDPA_INLINE To bits_as(From x) {
  return __builtin_bit_cast(To, x);
}

// --- Floats -----------------------------------------------------------------------------------
SEDPA_INLINE F32x16 broadcast(float x) {
  const F32x4 all = {x, x, x, x};
  return {all, all, all, all};
}
SEDPA_INLINE F32x16 zero() { return broadcast(0.0f); }
SEDPA_INLINE F32x16 operator+(F32x16 p, F32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x + y; });
}
SEDPA_INLINE F32x16 operator-(F32x16 p, F32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x - y; });
}
SEDPA_INLINE F32x16 operator*(F32x16 p, F32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x * y; });
}
SEDPA_INLINE F32x16 operator/(F32x16 p, F32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x / y; });
}
SEDPA_INLINE F32x16 fma(F32x16 p, F32x16 q, F32x16 r) { return p * q + r; }
SEDPA_INLINE F32x16 fnma(F32x16 p, F32x16 q, F32x16 r) { return r - p * q; }
SEDPA_INLINE F32x16 max(F32x16 p, F32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x > y ? x : y; });
}
SEDPA_INLINE F32x16 min(F32x16 p, F32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x < y ? x : y; });
}
SEDPA_INLINE F32x4 abs(F32x4 x) { return bits_as<F32x4>(bits_as<U32x4>(x) & 0x7fffffffu); }
SEDPA_INLINE F32x16 abs(F32x16 p) {
  return each(
      p, SEDPA_QUARTER { return abs(x); });
}
SEDPA_INLINE F32x16 sqrt(F32x16 p) {
  return each(
      p, SEDPA_QUARTER {
        return F32x4{__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]),
                     __builtin_sqrtf(x[3])};
      });
}
/// Adding 1.5 * 2^23 leaves no bits below the point; larger numbers (and NaN) are whole already.
SEDPA_INLINE F32x4 round(F32x4 x) {
  constexpr float kMagic = 0x1.8p23f;
  return abs(x) < 0x1p22f ? (x + kMagic) - kMagic : x;
}
SEDPA_INLINE F32x16 round(F32x16 p) {
  return each(
      p, SEDPA_QUARTER { return round(x); });
}
/// Whole numbers that fit; other lanes (NaN too) give the smallest int, as vector conversions do.
SEDPA_INLINE I32x4 to_int_whole(F32x4 x) {
  const I32x4 fits = (x >= -0x1p31f) & (x < 0x1p31f);
  const I32x4 whole = __builtin_convertvector(fits ? x : F32x4{}, I32x4);
  return fits ? whole : I32x4{} + INT32_MIN;
}
SEDPA_INLINE F32x16 scale_by_power_of_two(F32x16 p, F32x16 n) {
  return each(
      p, n, SEDPA_QUARTERS {
        const U32x4 biased = bits_as<U32x4>(to_int_whole(y)) + 127u;
        return x * bits_as<F32x4>(biased << 23);
      });
}
SEDPA_INLINE float reduce_sum(F32x16 p) {
  const F32x4 four = (p.a + p.b) + (p.c + p.d);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
SEDPA_INLINE float larger(float x, float y) { return x > y ? x : y; }
SEDPA_INLINE float reduce_max(F32x16 p) {
  const F32x16 halves = max(p, {p.c, p.d, p.c, p.d});
  const F32x4 four = halves.a > halves.b ? halves.a : halves.b;
  return larger(larger(four[0], four[2]), larger(four[1], four[3]));
}
SEDPA_INLINE void reduce_max_4(const F32x16 (&a)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = reduce_max(a[i]);
}

// --- Masks ------------------------------------------------------------------------------------
SEDPA_INLINE unsigned mask_bits(I32x4 all_ones) {
  const I32x4 bits = all_ones & I32x4{1, 2, 4, 8};
  return static_cast<unsigned>(bits[0] | bits[1] | bits[2] | bits[3]);
}
SEDPA_INLINE std::uint16_t mask_bits(Quarters<I32x4> m) {
  return static_cast<std::uint16_t>(mask_bits(m.a) | (mask_bits(m.b) << 4) | (mask_bits(m.c) << 8) |
                                    (mask_bits(m.d) << 12));
}
SEDPA_INLINE std::uint16_t less(F32x16 p, F32x16 q) {
  return mask_bits(each(
      p, q, SEDPA_QUARTERS { return x < y; }));
}
SEDPA_INLINE std::uint16_t unordered(F32x16 p) {
  return mask_bits(each(
      p, SEDPA_QUARTER { return x != x; }));
}
SEDPA_INLINE I32x4 lane_mask(unsigned bits) {
  const I32x4 lane = {1, 2, 4, 8};
  return (lane & static_cast<std::int32_t>(bits)) != 0;
}
SEDPA_INLINE F32x16 blend(std::uint16_t bits, F32x16 yes, F32x16 no) {
  return {lane_mask(bits) ? yes.a : no.a, lane_mask(bits >> 4u) ? yes.b : no.b,
          lane_mask(bits >> 8u) ? yes.c : no.c, lane_mask(bits >> 12u) ? yes.d : no.d};
}

// --- Loads and stores -------------------------------------------------------------------------
SEDPA_INLINE std::size_t bytes_of(std::int64_t count, std::size_t size) {
  return static_cast<std::size_t>(count >= 16 ? 16 : count) * size;
}
SEDPA_INLINE F32x16 load(const void* from) {
  F32x16 r;
  std::memcpy(&r, from, sizeof r);
  return r;
}
SEDPA_INLINE void store(void* to, F32x16 p) { std::memcpy(to, &p, sizeof p); }
SEDPA_INLINE F32x16 load_partial(const void* from, std::int64_t count) {
  float all[16] = {};
  std::memcpy(all, from, bytes_of(count, 4));
  return load(all);
}
SEDPA_INLINE void store_partial(void* to, F32x16 p, std::int64_t count) {
  float all[16];
  store(all, p);
  std::memcpy(to, all, bytes_of(count, 4));
}
/// 16 short numbers in the low bits of each lane.
template <class Small>
SEDPA_INLINE I32x16 load_widened(const void* from) {
  Small small[16];
  std::memcpy(small, from, sizeof small);
  std::int32_t wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = small[i];
  I32x16 r;
  std::memcpy(&r, wide, sizeof r);
  return r;
}
/// 2^112 takes a half's exponent, put where a float's stands, to its value; the halves below 2^-14
/// come out right too, as floats have room for them.
SEDPA_INLINE F32x16 load_f16(const void* from) {
  return each(
      load_widened<std::uint16_t>(from), SEDPA_QUARTER {
        const U32x4 half = bits_as<U32x4>(x);
        const U32x4 magnitude = (half & 0x7fffu) << 13;
        const U32x4 value = bits_as<U32x4>(bits_as<F32x4>(magnitude) * 0x1p112f);
        const U32x4 special = magnitude | 0x7f800000u;
        return bits_as<F32x4>((magnitude >= 0x0f800000u ? special : value) |
                              ((half & 0x8000u) << 16));
      });
}
SEDPA_INLINE F32x16 load_f16_partial(const void* from, std::int64_t count) {
  std::uint16_t bits[16] = {};
  std::memcpy(bits, from, bytes_of(count, 2));
  return load_f16(bits);
}
SEDPA_INLINE F32x16 load_bf16(const void* from) {
  return each(
      load_widened<std::uint16_t>(from),
      SEDPA_QUARTER { return bits_as<F32x4>(bits_as<U32x4>(x) << 16); });
}
SEDPA_INLINE F32x16 load_bf16_partial(const void* from, std::int64_t count) {
  std::uint16_t bits[16] = {};
  std::memcpy(bits, from, bytes_of(count, 2));
  return load_bf16(bits);
}
SEDPA_INLINE void split_pairs(const void* from, F32x16& first, F32x16& second) {
  Quarters<U32x4> bits;
  std::memcpy(&bits, from, sizeof bits);
  first = each(
      bits, SEDPA_QUARTER { return bits_as<F32x4>(x << 16); });
  second = each(
      bits, SEDPA_QUARTER { return bits_as<F32x4>(x & 0xffff0000u); });
}
SEDPA_INLINE F32x16 to_float(I32x16 p) {
  return each(
      p, SEDPA_QUARTER { return __builtin_convertvector(x, F32x4); });
}
SEDPA_INLINE F32x16 load_i8(const void* from) { return to_float(load_widened<std::int8_t>(from)); }
SEDPA_INLINE F32x16 load_u8(const void* from) { return to_float(load_widened<std::uint8_t>(from)); }
SEDPA_INLINE void store_f16(void* to, F32x16 p) {
  float all[16];
  store(all, p);
  std::uint16_t bits[16];
  for (int i = 0; i < 16; ++i) bits[i] = f32_to_f16(all[i]);
  std::memcpy(to, bits, sizeof bits);
}
SEDPA_INLINE void store_f16_partial(void* to, F32x16 p, std::int64_t count) {
  std::uint16_t bits[16];
  store_f16(bits, p);
  std::memcpy(to, bits, bytes_of(count, 2));
}
SEDPA_INLINE void store_bf16(void* to, F32x16 p) {
  const auto rounded = each(
      p, SEDPA_QUARTER {
        const U32x4 bits = bits_as<U32x4>(x);
        const U32x4 near = bits + 0x7fffu + ((bits >> 16) & 1u);
        return (x != x ? bits | 0x400000u : near) >> 16;
      });
  std::uint32_t wide[16];
  std::memcpy(wide, &rounded, sizeof wide);
  std::uint16_t bits[16];
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<std::uint16_t>(wide[i]);
  std::memcpy(to, bits, sizeof bits);
}
SEDPA_INLINE void store_bf16_partial(void* to, F32x16 p, std::int64_t count) {
  std::uint16_t bits[16];
  store_bf16(bits, p);
  std::memcpy(to, bits, bytes_of(count, 2));
}

// --- Ints -------------------------------------------------------------------------------------
SEDPA_INLINE I32x16 broadcast_int(std::int32_t x) {
  const I32x4 all = {x, x, x, x};
  return {all, all, all, all};
}
SEDPA_INLINE I32x16 zero_int() { return broadcast_int(0); }
/// Sums wrap around, as vectors do.
SEDPA_INLINE I32x16 operator+(I32x16 p, I32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return bits_as<I32x4>(bits_as<U32x4>(x) + bits_as<U32x4>(y)); });
}
SEDPA_INLINE I32x16 operator-(I32x16 p, I32x16 q) {
  return each(
      p, q, SEDPA_QUARTERS { return bits_as<I32x4>(bits_as<U32x4>(x) - bits_as<U32x4>(y)); });
}
template <int kBits>
SEDPA_INLINE I32x16 shift_left(I32x16 p) {
  return each(
      p, SEDPA_QUARTER { return bits_as<I32x4>(bits_as<U32x4>(x) << kBits); });
}
SEDPA_INLINE I32x16 to_int(F32x16 p) {
  return each(
      p, SEDPA_QUARTER { return to_int_whole(round(x)); });
}
SEDPA_INLINE std::int32_t reduce_sum(I32x16 p) {
  const I32x16 halves = p + I32x16{p.c, p.d, p.c, p.d};
  const U32x4 four = bits_as<U32x4>(halves.a) + bits_as<U32x4>(halves.b);
  return static_cast<std::int32_t>(four[0] + four[1] + four[2] + four[3]);
}
SEDPA_INLINE void reduce_sum_4(const I32x16 (&a)[4], std::int32_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = reduce_sum(a[i]);
}
SEDPA_INLINE void store_i8(void* to, I32x16 p) {
  std::int32_t wide[16];
  std::memcpy(wide, &p, sizeof wide);
  std::int8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<std::int8_t>(wide[i]);
  std::memcpy(to, bytes, sizeof bytes);
}
SEDPA_INLINE I32x16 load_ints(const void* from) {
  I32x16 r;
  std::memcpy(&r, from, sizeof r);
  return r;
}

// --- Bytes ------------------------------------------------------------------------------------
SEDPA_INLINE U8x64 load_bytes(const void* from) {
  U8x64 r;
  std::memcpy(&r, from, sizeof r);
  return r;
}
SEDPA_INLINE U8x64 operator&(U8x64 p, U8x64 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x & y; });
}
SEDPA_INLINE U8x64 operator|(U8x64 p, U8x64 q) {
  return each(
      p, q, SEDPA_QUARTERS { return x | y; });
}
SEDPA_INLINE U8x64 broadcast_byte(std::uint8_t byte) {
  const U8x16 all = U8x16{} + byte;
  return {all, all, all, all};
}
template <int kBits>
SEDPA_INLINE U8x64 shift_right(U8x64 p) {
  return each(
      p, SEDPA_QUARTER { return bits_as<U8x16>(bits_as<U32x4>(x) >> kBits); });
}
template <int kBits>
SEDPA_INLINE U8x64 shift_left(U8x64 p) {
  return each(
      p, SEDPA_QUARTER { return bits_as<U8x16>(bits_as<U32x4>(x) << kBits); });
}
SEDPA_INLINE U8x64 lookup(const std::uint8_t* table, U8x64 p) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, &p, sizeof bytes);
  for (std::uint8_t& byte : bytes) byte = table[byte];
  return load_bytes(bytes);
}

// --- Products of bytes ------------------------------------------------------------------------
/// Sums of pairs of products in 16 bits, which hold 128 * 127 * 2: `even` and `odd` are the codes
/// at even and odd places as 16-bit numbers.
SEDPA_INLINE I32x4 add_dot4(I32x4 sum, I16x8 even, I16x8 odd, const std::int8_t* x) {
  const std::int16_t x0 = x[0];
  const std::int16_t x1 = x[1];
  const std::int16_t x2 = x[2];
  const std::int16_t x3 = x[3];
  const I16x8 pairs =
      even * I16x8{x0, x2, x0, x2, x0, x2, x0, x2} + odd * I16x8{x1, x3, x1, x3, x1, x3, x1, x3};
  const I32x4 both = bits_as<I32x4>(pairs);
  const I32x4 low = bits_as<I32x4>(bits_as<U32x4>(both) << 16) >> 16;
  return sum + low + (both >> 16);
}
SEDPA_INLINE I32x16 dot4(I32x16 sum, U8x64 w, const std::int8_t* at) {
  return each(
      sum, w, [at](I32x4 x, U8x16 y) __attribute__((always_inline)) {
        const I16x8 code = bits_as<I16x8>(y);
        return add_dot4(x, code & 0xff, code >> 8, at);
      });
}
SEDPA_INLINE I32x16 dot4_centred_start(std::int32_t) { return zero_int(); }
SEDPA_INLINE I32x16 dot4_centred(I32x16 sum, U8x64 w, const std::int8_t* at) {
  return each(
      sum, w, [at](I32x4 x, U8x16 y) __attribute__((always_inline)) {
        const I16x8 value = bits_as<I16x8>(y ^ 0x80);
        const I16x8 raised = bits_as<I16x8>(bits_as<U32x4>(value) << 8);  // bytes 0 and 2 move up
        return add_dot4(x, raised >> 8, value >> 8, at);
      });
}

#undef SEDPA_QUARTER
#undef SEDPA_QUARTERS

}  // namespace sedpa::cpu::SEDPA_ISA
