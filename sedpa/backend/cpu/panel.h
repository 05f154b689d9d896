#pragma once
// The micro-kernels of every matrix product on the CPU. Included by kernel sources alone (simd.h).
//
// A matrix [rows, cols] is stored as panels of 16 rows, padded with zeros: panel p holds rows
// 16 p .. 16 p + 15 interleaved, so that one vector is one column of 16 rows. Nothing is summed
// across lanes, and 16 results of one token stand side by side. The other factor is a tile: T
// tokens, interleaved too ("input"). `accumulate<T, P>` adds the product of P panels and one tile,
//
//   acc[p][t][lane] += sum over k of panel_p[k][lane] * input[k][t]
//
// in ascending order of k, with one accumulator for each result: what a token gets does not depend
// on T, on P or on its place in the tile.
//
//   panel        lies as                    input
//   F32Panel     f32  [cols][16]            f32  [cols][T]
//   F16Panel     f16  [cols][16]            f32  [cols][T]; converted on load, products of f32
//   Bf16Panel    bf16 [cols / 2][16][2]     native: bf16 [cols / 2][T][2], products of bf16 pairs
//                                           else:   f32  [cols][T]
// `cols` counts what is stored: for Bf16Panel an even number. Quantised panels: panel_quantized.h.
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {

/// How many panels of plain numbers a product of tiles of T tokens takes at once: what the
/// registers hold, and enough chains of additions to hide their latency when T is small.
template <int T>
inline constexpr int kPlainAtOnce = kAccumulators / T >= 4 ? 4 : (kAccumulators / T >= 2 ? 2 : 1);

/// Products of few tokens wait for memory, and the machine's own guess at what comes next ends at
/// each page: asks for a panel's bytes this much ahead, where the next panel lies when this one
/// ends.
inline constexpr std::int64_t kAhead = 4096;

template <int T>
SEDPA_INLINE void fetch_ahead(const std::byte* panel, std::int64_t bytes) {
  if constexpr (T <= 2) {
    for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(panel + kAhead + i, 0, 2);
  }
}

template <int T, int P>
using Accumulators = F32x16[P][T];

template <int T, int P>
SEDPA_INLINE void clear(Accumulators<T, P>& acc) {
  SEDPA_UNROLL for (int p = 0; p < P; ++p) {
    SEDPA_UNROLL for (int t = 0; t < T; ++t) acc[p][t] = zero();
  }
}

/// acc[p][t] += w[p] * x[t]
template <int T, int P>
SEDPA_INLINE void add_outer_product(Accumulators<T, P>& acc, const F32x16 (&w)[P], const float* x) {
  SEDPA_UNROLL for (int t = 0; t < T; ++t) {
    const F32x16 xt = broadcast(x[t]);
    SEDPA_UNROLL for (int p = 0; p < P; ++p) acc[p][t] = fma(w[p], xt, acc[p][t]);
  }
}

struct F32Panel {
  template <int T>
  static constexpr int kPanelsAtOnce = kPlainAtOnce<T>;

  /// panels: the first of P, `stride` bytes from one to the next.
  template <int T, int P>
  SEDPA_INLINE static void accumulate(const std::byte* panels, std::int64_t stride,
                                      const void* input, std::int64_t cols,
                                      Accumulators<T, P>& acc) {
    const auto* x = static_cast<const float*>(input);
    for (std::int64_t k = 0; k < cols; ++k, x += T, panels += 64) {
      F32x16 w[P];
      SEDPA_UNROLL for (int p = 0; p < P; ++p) w[p] = load(panels + p * stride);
      add_outer_product<T, P>(acc, w, x);
    }
  }
};

struct F16Panel {
  template <int T>
  static constexpr int kPanelsAtOnce = kPlainAtOnce<T>;

  template <int T, int P>
  SEDPA_INLINE static void accumulate(const std::byte* panels, std::int64_t stride,
                                      const void* input, std::int64_t cols,
                                      Accumulators<T, P>& acc) {
    const auto* x = static_cast<const float*>(input);
    for (std::int64_t k = 0; k < cols; ++k, x += T, panels += 32) {
      F32x16 w[P];
      SEDPA_UNROLL for (int p = 0; p < P; ++p) {
        if (k % 2 == 0) fetch_ahead<T>(panels + p * stride, 64);
        w[p] = load_f16(panels + p * stride);
      }
      add_outer_product<T, P>(acc, w, x);
    }
  }
};

struct Bf16Panel {
  template <int T>
  static constexpr int kPanelsAtOnce = kPlainAtOnce<T>;

  template <int T, int P>
  SEDPA_INLINE static void accumulate(const std::byte* panels, std::int64_t stride,
                                      const void* input, std::int64_t cols,
                                      Accumulators<T, P>& acc) {
#if SEDPA_ISA_LEVEL == 2
    const auto* x = static_cast<const std::byte*>(input);
    for (std::int64_t k = 0; k < cols; k += 2, x += 4 * T, panels += 64) {
      Bf16x32 w[P];
      SEDPA_UNROLL for (int p = 0; p < P; ++p) {
        fetch_ahead<T>(panels + p * stride, 64);
        w[p] = load_pairs(panels + p * stride);
      }
      SEDPA_UNROLL for (int t = 0; t < T; ++t) {
        const Bf16x32 xt = broadcast_pair(x + 4 * t);
        SEDPA_UNROLL for (int p = 0; p < P; ++p) acc[p][t] = dot2(acc[p][t], w[p], xt);
      }
    }
#else
    const auto* x = static_cast<const float*>(input);
    for (std::int64_t k = 0; k < cols; k += 2, x += 2 * T, panels += 64) {
      F32x16 even[P];
      F32x16 odd[P];
      SEDPA_UNROLL for (int p = 0; p < P; ++p) split_pairs(panels + p * stride, even[p], odd[p]);
      add_outer_product<T, P>(acc, even, x);
      add_outer_product<T, P>(acc, odd, x + T);
    }
#endif
  }
};

}  // namespace sedpa::cpu::SEDPA_ISA
