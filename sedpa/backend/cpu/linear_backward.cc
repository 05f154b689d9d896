#include "sedpa/backend/cpu/linear_backward.h"

#include <algorithm>
#include <cstring>

#include "sedpa/backend/cpu/panel_format.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cpu {
namespace {

/// Rows of W that are multiplied at once: a multiple of a panel's.
constexpr std::int64_t kWeightRows = 256;

constexpr int kF32 = static_cast<int>(Dtype::f32);
constexpr int kF32Form = static_cast<int>(InputForm::f32);

}  // namespace

LinearBackwardRunner::Layout LinearBackwardRunner::layout(const TrainPlan& plan) const {
  Layout at{.max_tokens = plan.max_tokens,
            .max_cols = std::max(plan.max_cols, plan.max_rank),
            .max_rank = plan.max_rank};
  const auto floats = [](std::int64_t count) {
    return round_up(static_cast<std::size_t>(count) * sizeof(float), kAlignment);
  };
  at.tiles = floats(round_up(at.max_cols, kPanelRows) * kWeightRows);
  at.rows = at.tiles + floats(round_up(plan.max_tokens, static_cast<std::int64_t>(kernels_.tile)) *
                              kWeightRows);
  at.middle = at.rows + floats(pool_.size() * at.max_cols);
  at.end = at.middle + floats(plan.max_tokens * plan.max_rank);
  return at;
}

std::size_t LinearBackwardRunner::scratch_bytes(const TrainPlan& plan) const {
  return layout(plan).end;
}

void LinearBackwardRunner::reserve(const TrainPlan& plan) {
  layout_ = layout(plan);
  scratch_ = Pages();
  scratch_ = Pages(layout_.end);
}

void LinearBackwardRunner::run(const Linear& linear, Rows d_out, Rows d_x) {
  if (d_out.cols != linear.out_features() || d_x.cols != linear.in_features() ||
      d_out.rows != d_x.rows) {
    fail("the gradient of a linear of {} x {} was given rows [{}, {}] and asked for [{}, {}]",
         linear.out_features(), linear.in_features(), d_out.rows, d_out.cols, d_x.rows, d_x.cols);
  }
  if (d_x.rows > layout_.max_tokens || d_x.cols > layout_.max_cols ||
      (linear.b && linear.a.cols > layout_.max_rank)) {
    fail("the gradient of a linear of {} rows x {} columns exceeds what was reserved: {} x {}",
         d_x.rows, d_x.cols, layout_.max_tokens, layout_.max_cols);
  }
  if (linear.b) {
    const Rows middle{area(layout_.middle), d_out.rows, linear.a.cols, linear.a.cols};
    run_weight(linear.a, d_out, middle);
    run_weight(*linear.b, middle, d_x);
  } else {
    run_weight(linear.a, d_out, d_x);
  }
}

void LinearBackwardRunner::run_weight(const Weight& weight, Rows d_out, Rows d_x) {
  bool add = false;
  for (const WeightBand& band : weight.bands) {
    for (std::int64_t first = 0; first < band.rows; first += kWeightRows, add = true) {
      const std::int64_t count = std::min(kWeightRows, band.rows - first);
      transpose(weight, band, first, count);
      multiply(count, d_out.columns(band.first_row + first, count), d_x, add);
    }
  }
}

/// Panel p of the block of W': f32 [count][16], row k being columns 16 p .. of row first + k of W.
void LinearBackwardRunner::transpose(const Weight& weight, const WeightBand& band,
                                     std::int64_t first, std::int64_t count) {
  const std::int64_t cols = weight.cols;
  const std::int64_t from_bytes = panel_bytes(band.dtype, cols);
  pool_.for_each(count, [&](std::int64_t k, int thread) {
    float* row = area(layout_.rows) + thread * layout_.max_cols;
    const std::int64_t at = first + k;
    unpack_panel_row(band.dtype, band.data + at / kPanelRows * from_bytes, at % kPanelRows, cols,
                     row);
    for (std::int64_t c = 0; c < cols; c += kPanelRows) {
      float* to = area(0) + (c * count) + k * kPanelRows;
      const std::int64_t width = std::min(kPanelRows, cols - c);
      std::copy_n(row + c, width, to);
      std::fill(to + width, to + kPanelRows, 0.0f);
    }
  });
}

void LinearBackwardRunner::multiply(std::int64_t count, Rows d_out, Rows d_x, bool add) {
  const std::int64_t tile = kernels_.tile;
  const std::int64_t tiles = ceil_div(d_x.rows, tile);
  // Packing pads an odd number of columns.
  const std::int64_t tile_bytes =
      input_bytes(InputForm::f32, round_up(count, std::int64_t{2})) * tile;
  auto* packed = reinterpret_cast<std::byte*>(area(layout_.tiles));
  pool_.for_each(tiles, [&](std::int64_t index, int) {
    kernels_.pack[kF32Form]({.x = d_out.row(index * tile),
                             .stride = d_out.stride,
                             .tokens = std::min(tile, d_out.rows - index * tile),
                             .cols = count,
                             .tile = packed + index * tile_bytes});
  });

  const std::int64_t panels = ceil_div(d_x.cols, kPanelRows);
  const std::int64_t blocks = ceil_div(panels, kPanelBlock);
  const std::int64_t wanted = kPiecesPerThread * pool_.size();
  const std::int64_t tiles_a_piece = ceil_div(tiles, std::min(ceil_div(wanted, blocks), tiles));
  const std::int64_t runs = ceil_div(tiles, tiles_a_piece);
  pool_.for_each(blocks * runs, [&](std::int64_t piece, int) {
    const std::int64_t panel = piece / runs * kPanelBlock;
    const std::int64_t col = panel * kPanelRows;
    const std::int64_t first = piece % runs * tiles_a_piece;
    const std::int64_t token = first * tile;
    float* out = d_x.row(token) + col;
    kernels_.product[kF32]({.panels = scratch_.data() + panel_bytes(Dtype::f32, count) * panel,
                            .panel_bytes = panel_bytes(Dtype::f32, count),
                            .rows = std::min(kPanelBlock * kPanelRows, d_x.cols - col),
                            .cols = count,
                            .tiles = packed + first * tile_bytes,
                            .tile_bytes = tile_bytes,
                            .tokens = std::min(tiles_a_piece * tile, d_x.rows - token),
                            .residual = add ? out : nullptr,
                            .residual_stride = d_x.stride,
                            .out = out,
                            .out_stride = d_x.stride});
  });
}

}  // namespace sedpa::cpu
