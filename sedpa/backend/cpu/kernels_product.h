#pragma once
// From micro-kernels to a product: tiles of any length over panels of one type. Included by kernel
// sources alone.
#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/backend/cpu/panel.h"
#include "sedpa/backend/cpu/panel_format.h"

namespace sedpa::cpu::SEDPA_ISA {

/// Tiles have 1, 2, 4, 8 or `kTile` tokens, as far as the registers allow; others are padded to the
/// next.
constexpr int tile_width(std::int64_t tokens) {
  constexpr int kWidths[] = {1, 2, 4, 8};
  for (const int width : kWidths) {
    if (width <= kTile && tokens <= width) return width;
  }
  return kTile;
}

/// Calls use(Width<T>) for T = tile_width(tokens).
template <int T>
struct Width {};

template <class Use>
SEDPA_INLINE void with_width(std::int64_t tokens, Use use) {
  switch (tile_width(tokens)) {
    case 1:
      return use(Width<1>{});
    case 2:
      if constexpr (kTile > 2) return use(Width<2>{});
      break;
    case 4:
      if constexpr (kTile > 4) return use(Width<4>{});
      break;
    case 8:
      if constexpr (kTile > 8) return use(Width<8>{});
      break;
    default:
      break;
  }
  use(Width<kTile>{});
}

/// One token's sums of one panel: `rows` <= 16 results.
SEDPA_INLINE void finish(const PanelProduct& job, F32x16 sum, std::int64_t token, std::int64_t row,
                         std::int64_t rows) {
  if (job.bias != nullptr) sum = sum + load_partial(job.bias + row, rows);
  if (job.residual != nullptr) {
    sum = sum + load_partial(job.residual + token * job.residual_stride + row, rows);
  }
  float* out = job.out + token * job.out_stride + row;
  if (rows >= kPanelRows) {
    store(out, sum);
  } else {
    store_partial(out, sum, rows);
  }
}

/// P panels from `panel` on, one tile of `tokens` <= T.
template <class Panel, int T, int P>
void multiply_tile(const PanelProduct& job, std::int64_t panel, const std::byte* tile,
                   std::int64_t first_token, std::int64_t tokens) {
  Accumulators<T, P> acc;
  clear<T, P>(acc);
  Panel::template accumulate<T, P>(job.panels + panel * job.panel_bytes, job.panel_bytes, tile,
                                   job.cols, acc);
  SEDPA_UNROLL for (int p = 0; p < P; ++p) {
    const std::int64_t row = (panel + p) * kPanelRows;
    SEDPA_UNROLL for (int t = 0; t < T; ++t) {
      if (t < tokens) finish(job, acc[p][t], first_token + t, row, job.rows - row);
    }
  }
}

/// Panels that stay in the nearest cache while all tiles pass over them.
inline constexpr std::int64_t kPanelBlock = 4;

template <class Panel>
void multiply(const PanelProduct& job) {
  const std::int64_t panels = (job.rows + kPanelRows - 1) / kPanelRows;
  for (std::int64_t begin = 0; begin < panels; begin += kPanelBlock) {
    const std::int64_t end = begin + kPanelBlock < panels ? begin + kPanelBlock : panels;
    const std::byte* tile = job.tiles;
    for (std::int64_t first = 0; first < job.tokens; first += kTile, tile += job.tile_bytes) {
      const std::int64_t tokens = job.tokens - first < kTile ? job.tokens - first : kTile;
      with_width(
          tokens, [&]<int T>(Width<T>) __attribute__((always_inline)) {
            constexpr int kAtOnce = Panel::template kPanelsAtOnce<T>;
            std::int64_t panel = begin;
            for (; panel + kAtOnce <= end; panel += kAtOnce) {
              multiply_tile<Panel, T, kAtOnce>(job, panel, tile, first, tokens);
            }
            for (; panel < end; ++panel)
              multiply_tile<Panel, T, 1>(job, panel, tile, first, tokens);
          });
    }
  }
}

}  // namespace sedpa::cpu::SEDPA_ISA
