#pragma once
// Products of a group's codes where the machine multiplies pairs of 16-bit numbers and adds them
// (AVX2): half the multiplications that bytes would take. Included by panel_quantized.h alone.
//
// Input of a tile of T tokens, as far as it is codes: i16 [T][32] q, of each four columns 0, 2, 1,
// 3: so do codes lie when bytes become words.
#include "sedpa/backend/cpu/panel_format.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {

/// Tokens of a tile that are multiplied side by side: each code is loaded once for them, and their
/// sums and two codes fit the registers.
template <int T>
inline constexpr int kTokensAtOnce = T % 3 == 0 ? 3 : (T % 2 == 0 ? 2 : 1);

/// Puts the numbers q of 16 columns, the first or (half = 1) the second ones of a group, into the
/// place of token t in a tile.
template <int T>
SEDPA_INLINE void store_input_half(std::byte* group, int t, int half, I32x16 q) {
  store_crossed_words(group + 64 * t + 32 * half, q);
}

/// The codes of 16 rows. kBytes: value + 128; else value + 2^kOffsetBits, or the value where that
/// is 0.
template <bool kBytes, int kOffsetBits>
class GroupCodes {
 public:
  SEDPA_INLINE explicit GroupCodes(const U8x64 (&code)[8]) {
    SEDPA_UNROLL for (int v = 0; v < 8; ++v) {
      words_[2 * v] = even_bytes(code[v]);
      words_[2 * v + 1] = odd_bytes(code[v]);
    }
    if constexpr (kBytes) {
      SEDPA_UNROLL for (int w = 0; w < 16; ++w) words_[w] = words_[w] - broadcast_word(128);
    }
  }

  /// sums of N tokens from t on: the products of columns 4 kBegin .. 4 kEnd - 1. `minus_sums` of
  /// the numbers there take offsets of codes back. At most 32 * 255 * 2^14: far from what an int
  /// holds.
  template <int T, int kBegin, int kEnd, int N>
  SEDPA_INLINE void multiply(const std::byte* group, int t, const std::int32_t (&minus_sums)[N],
                             I32x16 (&sums)[N]) const {
    const std::byte* x = group + 64 * t;
    SEDPA_UNROLL for (int n = 0; n < N; ++n) {
      sums[n] = zero_int();
      if constexpr (kOffsetBits > 0) {
        sums[n] = shift_left<kOffsetBits>(broadcast_int(minus_sums[n]));
      }
    }
    const auto step = [&](int w) __attribute__((always_inline)) {
      SEDPA_UNROLL for (int n = 0; n < N; ++n) {
        sums[n] = dot2(sums[n], words_[w], x + 64 * n + 4 * w);
      }
    };
    // Unrolled further, GCC puts all products into memory before it adds the first.
    if constexpr (N == 1) {
      for (int w = 2 * kBegin; w < 2 * kEnd; ++w) step(w);
    } else {
      _Pragma("GCC unroll 4") for (int w = 2 * kBegin; w < 2 * kEnd; ++w) step(w);
    }
  }

 private:
  I16x32 words_[16];
};

}  // namespace sedpa::cpu::SEDPA_ISA
