#pragma once
// Products of a group's codes where the machine multiplies bytes by fours, or has no multiplication
// that serves better: q = 128 h + l with signed bytes h and l, |l| <= 64, and each is multiplied by
// itself. Included by panel_quantized.h alone.
//
// Input of a tile of T tokens, as far as it is codes: i8 [T][32] h, i8 [T][32] l.
#include "sedpa/backend/cpu/panel_format.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {

inline constexpr int kLowBits = 7;  // q = h 2^7 + l

/// Tokens of a tile that are multiplied side by side.
template <int T>
inline constexpr int kTokensAtOnce = 1;

/// Puts the numbers q of 16 columns, the first or (half = 1) the second ones of a group, into the
/// place of token t in a tile.
template <int T>
SEDPA_INLINE void store_input_half(std::byte* group, int t, int half, I32x16 q) {
  std::byte* at = group + 32 * t + 16 * half;
  const I32x16 high = to_int(to_float(q) * broadcast(1.0f / (1 << kLowBits)));
  store_i8(at, high);
  store_i8(at + 32 * T, q - shift_left<kLowBits>(high));
}

/// The codes of 16 rows. kBytes: value + 128; else value + 2^kOffsetBits, or the value where that
/// is 0.
template <bool kBytes, int kOffsetBits>
class GroupCodes {
 public:
  SEDPA_INLINE explicit GroupCodes(const U8x64 (&code)[8]) {
    SEDPA_UNROLL for (int v = 0; v < 8; ++v) code_[v] = code[v];
  }

  /// sums[0] of token t: the product of columns 4 kBegin .. 4 kEnd - 1. `minus_sums` of the numbers
  /// there take offsets of codes back. At most 32 * 255 * 2^14: far from what an int holds. In
  /// chains of four, short enough that the machine finds the next token's while it waits for one.
  template <int T, int kBegin, int kEnd>
  SEDPA_INLINE void multiply(const std::byte* group, int t, const std::int32_t (&minus_sums)[1],
                             I32x16 (&sums)[1]) const {
    const auto* high = reinterpret_cast<const std::int8_t*>(group) + 32 * t;
    const std::int8_t* low = high + 32 * T;
    constexpr int kChains = (kEnd - kBegin) / 4;
    I32x16 highs[kChains];
    I32x16 lows[kChains];
    SEDPA_UNROLL for (int c = 0; c < kChains; ++c) {
      highs[c] = zero_int();
      lows[c] = c == 0 ? start(minus_sums[0]) : zero_int();
    }
    SEDPA_UNROLL for (int i = 0; i < 4; ++i) {
      SEDPA_UNROLL for (int c = 0; c < kChains; ++c) {
        const int v = kBegin + 4 * c + i;
        highs[c] = dot(highs[c], code_[v], high + 4 * v);
        lows[c] = dot(lows[c], code_[v], low + 4 * v);
      }
    }
    SEDPA_UNROLL for (int c = 1; c < kChains; ++c) {
      highs[0] = highs[0] + highs[c];
      lows[0] = lows[0] + lows[c];
    }
    sums[0] = shift_left<kLowBits>(highs[0]) + lows[0];
  }

 private:
  SEDPA_INLINE static I32x16 start(std::int32_t minus_sum) {
    if constexpr (kBytes) return dot4_centred_start(minus_sum);
    if constexpr (kOffsetBits > 0) return shift_left<kOffsetBits>(broadcast_int(minus_sum));
    return zero_int();
  }
  SEDPA_INLINE static I32x16 dot(I32x16 sum, U8x64 code, const std::int8_t* x) {
    if constexpr (kBytes) return dot4_centred(sum, code, x);
    return dot4(sum, code, x);
  }

  U8x64 code_[8];
};

}  // namespace sedpa::cpu::SEDPA_ISA
