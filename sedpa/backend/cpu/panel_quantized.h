#pragma once
// Micro-kernels of quantised panels (layout: panel_format.h). Inputs become whole numbers of 15
// bits, each token in groups of 32 columns: x = d * q with d = max |x| / (127 * 128), and q = 128 h
// + l with signed bytes h and l, |l| <= 64. Products of codes are exact integers; for each group
// they are scaled and added to the f32 accumulator, in ascending order of columns.
//
// One byte a number would be faster where arithmetic counts, in prefill. But its rounding is coarse
// enough that the last bit of an f32 decides a code now and then, layer after layer, so that two
// ways to the same sum (one chunk or several) end as far from each other as each from the truth.
//
// Input of a tile of T tokens: for each group
//   i8  [T][32]  h
//   i8  [T][32]  l
//   f32 [T]      d
//   f32 [T]      d * (sum of q), what a group's minimum is multiplied by
//   i32 [T]      -(sum of q)
//   i32 [T]      -(sum of the first 16 q)
#include "sedpa/backend/cpu/panel.h"
#include "sedpa/backend/cpu/panel_format.h"

namespace sedpa::cpu::SEDPA_ISA {

/// Bytes of one group of one token.
inline constexpr std::int64_t kInputGroupBytes = 80;
inline constexpr int kLowBits = 7;  // q = h 2^7 + l

template <int T>
struct InputGroup {
  const std::byte* at;

  SEDPA_INLINE const std::int8_t* high(int t) const {
    return reinterpret_cast<const std::int8_t*>(at) + 32 * t;
  }
  SEDPA_INLINE const std::int8_t* low(int t) const { return high(t) + 32 * T; }
  SEDPA_INLINE float scale(int t) const { return load_scalar<float>(at + 64 * T + 4 * t); }
  SEDPA_INLINE float scaled_sum(int t) const { return load_scalar<float>(at + 68 * T + 4 * t); }
  SEDPA_INLINE std::int32_t minus_sum(int t) const {
    return load_scalar<std::int32_t>(at + 72 * T + 4 * t);
  }
  SEDPA_INLINE std::int32_t minus_half_sum(int t) const {
    return load_scalar<std::int32_t>(at + 76 * T + 4 * t);
  }
};

template <Dtype kType>
struct QuantizedPanel {
  static constexpr PanelLayout kLayout = panel_layout(kType);
  static constexpr bool kSuperBlocks = kLayout.groups > 1;
  static constexpr bool kBytes = kType == Dtype::q8_0 || kType == Dtype::iq4_nl;  // value + 128
  static constexpr bool kHalves = kType == Dtype::q6_k;  // two scales in a group
  static constexpr bool kMinimum =
      kType == Dtype::q4_1 || kType == Dtype::q5_1 || kType == Dtype::q4_k || kType == Dtype::q5_k;
  /// Codes are value + 2^kOffsetBits.
  static constexpr int kOffsetBits = kType == Dtype::q4_0   ? 3
                                     : kType == Dtype::q5_0 ? 4
                                     : kType == Dtype::q6_k ? 5
                                                            : 0;

  /// The chains of integer products are short and many: one panel keeps the machine busy.
  template <int T>
  static constexpr int kPanelsAtOnce = 1;

  template <int T, int P>
  SEDPA_INLINE static void accumulate(const std::byte* panels, std::int64_t stride,
                                      const void* input, std::int64_t cols,
                                      Accumulators<T, P>& acc) {
    const auto* x = static_cast<const std::byte*>(input);
    for (std::int64_t block = cols / (kLayout.groups * kGroup); block > 0; --block) {
      Head head[P];
      SEDPA_UNROLL for (int p = 0; p < P; ++p) head[p] = load_head(panels + p * stride);
      panels += kLayout.head;
      for (int g = 0; g < kLayout.groups; ++g) {
        SEDPA_UNROLL for (int p = 0; p < P; ++p) {
          fetch_ahead<T>(panels + p * stride, kLayout.group());
          add_group<T>(panels + p * stride, head[p], InputGroup<T>{x}, acc[p]);
        }
        panels += kLayout.group();
        x += T * kInputGroupBytes;
      }
    }
  }

 private:
  struct Head {
    F32x16 scale;
    F32x16 minimum;
  };
  /// What the codes of one group are multiplied by; `second` is for the other half of its columns.
  struct Scales {
    F32x16 first;
    F32x16 second;
    F32x16 minimum;  // added
  };

  SEDPA_INLINE static Head load_head(const std::byte* at) {
    Head head{zero(), zero()};
    if constexpr (kSuperBlocks) head.scale = load_f16(at);
    if constexpr (kSuperBlocks && kMinimum) head.minimum = zero() - load_f16(at + 32);
    return head;
  }

  SEDPA_INLINE static Scales load_scales(const std::byte* at, const Head& head) {
    Scales scales{zero(), zero(), zero()};
    if constexpr (kHalves) {
      scales.first = head.scale * load_i8(at);
      scales.second = head.scale * load_i8(at + 16);
    } else if constexpr (kSuperBlocks) {
      scales.first = head.scale * load_u8(at);
      scales.minimum = head.minimum * load_u8(at + 16);
    } else {
      scales.first = load_f16(at);
      if constexpr (kMinimum) scales.minimum = load_f16(at + 32);
    }
    return scales;
  }

  /// code[v]: columns 4 v .. 4 v + 3 of the 16 rows.
  SEDPA_INLINE static void load_codes(const std::byte* at, U8x64 (&code)[8]) {
    if constexpr (kType == Dtype::q8_0) {
      SEDPA_UNROLL for (int v = 0; v < 8; ++v) code[v] = load_bytes(at + 64 * v);
      return;
    }
    const U8x64 low = broadcast_byte(0x0f);
    SEDPA_UNROLL for (int v = 0; v < 4; ++v) {
      const U8x64 both = load_bytes(at + 64 * v);
      code[v] = both & low;
      code[v + 4] = shift_right<4>(both) & low;
      if constexpr (kType == Dtype::iq4_nl) {
        code[v] = lookup(kIq4Values, code[v]);
        code[v + 4] = lookup(kIq4Values, code[v + 4]);
      }
    }
    if constexpr (kHalves) {
      add_bit_pairs(load_bytes(at + 256), code[0], code[1], code[2], code[3]);
      add_bit_pairs(load_bytes(at + 320), code[4], code[5], code[6], code[7]);
    } else if constexpr (kLayout.plane == 64) {
      const U8x64 plane = load_bytes(at + 256);
      const U8x64 bit = broadcast_byte(0x10);
      code[0] = code[0] | (shift_left<4>(plane) & bit);
      code[1] = code[1] | (shift_left<3>(plane) & bit);
      code[2] = code[2] | (shift_left<2>(plane) & bit);
      code[3] = code[3] | (shift_left<1>(plane) & bit);
      code[4] = code[4] | (plane & bit);
      code[5] = code[5] | (shift_right<1>(plane) & bit);
      code[6] = code[6] | (shift_right<2>(plane) & bit);
      code[7] = code[7] | (shift_right<3>(plane) & bit);
    }
  }

  SEDPA_INLINE static void add_bit_pairs(U8x64 plane, U8x64& a, U8x64& b, U8x64& c, U8x64& d) {
    const U8x64 bits = broadcast_byte(0x30);
    a = a | (shift_left<4>(plane) & bits);
    b = b | (shift_left<2>(plane) & bits);
    c = c | (plane & bits);
    d = d | (shift_right<2>(plane) & bits);
  }

  SEDPA_INLINE static I32x16 start(std::int32_t minus_sum) {
    if constexpr (kBytes) return dot4_centred_start(minus_sum);
    if constexpr (kOffsetBits > 0) return shift_left<kOffsetBits>(broadcast_int(minus_sum));
    return zero_int();
  }

  SEDPA_INLINE static I32x16 dot(I32x16 sum, U8x64 code, const std::int8_t* x) {
    if constexpr (kBytes) return dot4_centred(sum, code, x);
    return dot4(sum, code, x);
  }

  /// The product of codes [kBegin, kEnd) with the numbers there. `minus_sum` of these numbers takes
  /// offsets of codes back. At most 32 * 255 * 2^14: far from what an int holds. In chains of four,
  /// short enough that the machine finds the next token's while it waits for one.
  template <int kBegin, int kEnd>
  SEDPA_INLINE static F32x16 product(const U8x64 (&code)[8], const std::int8_t* high,
                                     const std::int8_t* low, std::int32_t minus_sum) {
    constexpr int kChains = (kEnd - kBegin) / 4;
    I32x16 highs[kChains];
    I32x16 lows[kChains];
    SEDPA_UNROLL for (int c = 0; c < kChains; ++c) {
      highs[c] = zero_int();
      lows[c] = c == 0 ? start(minus_sum) : zero_int();
    }
    SEDPA_UNROLL for (int i = 0; i < 4; ++i) {
      SEDPA_UNROLL for (int c = 0; c < kChains; ++c) {
        const int v = kBegin + 4 * c + i;
        highs[c] = dot(highs[c], code[v], high + 4 * v);
        lows[c] = dot(lows[c], code[v], low + 4 * v);
      }
    }
    SEDPA_UNROLL for (int c = 1; c < kChains; ++c) {
      highs[0] = highs[0] + highs[c];
      lows[0] = lows[0] + lows[c];
    }
    return to_float(shift_left<kLowBits>(highs[0]) + lows[0]);
  }

  template <int T>
  SEDPA_INLINE static void add_group(const std::byte* at, const Head& head, InputGroup<T> x,
                                     F32x16 (&acc)[T]) {
    const Scales scales = load_scales(at, head);
    U8x64 code[8];
    load_codes(at + kLayout.scales, code);
    SEDPA_UNROLL for (int t = 0; t < T; ++t) {
      const std::int8_t* high = x.high(t);
      const std::int8_t* low = x.low(t);
      F32x16 sum;
      if constexpr (kHalves) {
        const std::int32_t half = x.minus_half_sum(t);
        const F32x16 first = product<0, 4>(code, high, low, half);
        const F32x16 second = product<4, 8>(code, high, low, x.minus_sum(t) - half);
        sum = fma(second, scales.second, first * scales.first);
      } else {
        sum = product<0, 8>(code, high, low, x.minus_sum(t)) * scales.first;
      }
      acc[t] = fma(sum, broadcast(x.scale(t)), acc[t]);
      if constexpr (kMinimum) {
        acc[t] = fma(scales.minimum, broadcast(x.scaled_sum(t)), acc[t]);
      }
    }
  }
};

}  // namespace sedpa::cpu::SEDPA_ISA
