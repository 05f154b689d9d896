#pragma once
// Micro-kernels of quantised panels (layout: panel_format.h). Inputs become whole numbers of 15
// bits, each token in groups of 32 columns: x = d * q with d = max |x| / (127 * 128). Products of
// codes are exact integers; for each group they are scaled and added to the f32 accumulator, in
// ascending order of columns.
//
// One byte a number would be faster where arithmetic counts, in prefill. But its rounding is coarse
// enough that the last bit of an f32 decides a code now and then, layer after layer, so that two
// ways to the same sum (one chunk or several) end as far from each other as each from the truth.
//
// Input of a tile of T tokens: for each group
//   64 T bytes  q, as products_bytes.h or products_words.h want it
//   f32 [T]     d
//   f32 [T]     d * (sum of q), what a group's minimum is multiplied by
//   i32 [T]     -(sum of q)
//   i32 [T]     -(sum of the first 16 q)
#include "sedpa/backend/cpu/panel.h"
#include "sedpa/backend/cpu/panel_format.h"
#if SEDPA_ISA_LEVEL == 1
#include "sedpa/backend/cpu/products_words.h"
#else
#include "sedpa/backend/cpu/products_bytes.h"
#endif

namespace sedpa::cpu::SEDPA_ISA {

/// Bytes of one group of one token.
inline constexpr std::int64_t kInputGroupBytes = 80;

template <int T>
struct InputGroup {
  const std::byte* at;

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

  template <int T>
  SEDPA_INLINE static void add_group(const std::byte* at, const Head& head, InputGroup<T> x,
                                     F32x16 (&acc)[T]) {
    constexpr int kTokens = kTokensAtOnce<T>;
    const Scales scales = load_scales(at, head);
    U8x64 code[8];
    load_codes(at + kLayout.scales, code);
    const GroupCodes<kBytes, kOffsetBits> codes(code);
    SEDPA_UNROLL for (int first = 0; first < T; first += kTokens) {
      F32x16 sums[kTokens];
      multiply<T>(codes, scales, x, first, sums);
      SEDPA_UNROLL for (int i = 0; i < kTokens; ++i) {
        const int t = first + i;
        acc[t] = fma(sums[i], broadcast(x.scale(t)), acc[t]);
        if constexpr (kMinimum) {
          acc[t] = fma(scales.minimum, broadcast(x.scaled_sum(t)), acc[t]);
        }
      }
    }
  }

  /// The scaled sums of one group, of the tokens from `first` on.
  template <int T, int N>
  SEDPA_INLINE static void multiply(const GroupCodes<kBytes, kOffsetBits>& codes,
                                    const Scales& scales, InputGroup<T> x, int first,
                                    F32x16 (&sums)[N]) {
    std::int32_t minus[N];
    I32x16 product[N];
    if constexpr (kHalves) {
      std::int32_t minus_second[N];
      SEDPA_UNROLL for (int i = 0; i < N; ++i) {
        minus[i] = x.minus_half_sum(first + i);
        minus_second[i] = x.minus_sum(first + i) - minus[i];
      }
      I32x16 second[N];
      codes.template multiply<T, 0, 4>(x.at, first, minus, product);
      codes.template multiply<T, 4, 8>(x.at, first, minus_second, second);
      SEDPA_UNROLL for (int i = 0; i < N; ++i) {
        sums[i] = fma(to_float(second[i]), scales.second, to_float(product[i]) * scales.first);
      }
    } else {
      SEDPA_UNROLL for (int i = 0; i < N; ++i) minus[i] = x.minus_sum(first + i);
      codes.template multiply<T, 0, 8>(x.at, first, minus, product);
      SEDPA_UNROLL for (int i = 0; i < N; ++i) sums[i] = to_float(product[i]) * scales.first;
    }
  }
};

}  // namespace sedpa::cpu::SEDPA_ISA
