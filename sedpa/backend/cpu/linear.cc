#include "sedpa/backend/cpu/linear.h"

#include <algorithm>

#include "sedpa/backend/cpu/panel_format.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cpu {
namespace {

/// Packed inputs stay within this, unless even one tile is larger: more tokens go block by block.
constexpr std::size_t kInputBytes = std::size_t{8} << 20;
/// Up to here each thread packs the tokens for itself: that is cheaper than to wait for another.
constexpr std::int64_t kFewTokens = 4;

std::int64_t panels_of(const WeightBand& band) { return ceil_div(band.rows, kPanelRows); }

}  // namespace

struct LinearRunner::Product {
  const Weight& weight;
  const Inputs& inputs;
  const float* bias;
  Rows residual;
  Rows out;
};

LinearRunner::Layout LinearRunner::layout(const OpsPlan& plan) const {
  Layout layout;
  layout.max_tokens = plan.max_tokens;
  layout.max_cols = std::max(plan.max_cols, plan.max_rank);
  layout.max_rank = plan.max_rank;
  // Room for each form side by side: bands of one matrix may differ.
  for (int form = 0; form < kInputForms; ++form) {
    layout.token_bytes += static_cast<std::size_t>(
        input_bytes(static_cast<InputForm>(form), round_up(layout.max_cols, kGroup)));
  }
  const std::int64_t tile = kernels_.tile;
  const auto fit =
      static_cast<std::int64_t>(kInputBytes / std::max<std::size_t>(1, layout.token_bytes));
  const std::int64_t most = std::max(tile, fit / tile * tile);
  layout.block_tokens = std::min(most, round_up(plan.max_tokens, tile));
  // A tile of few tokens is packed once for each thread.
  layout.input_bytes =
      static_cast<std::size_t>(std::max(layout.block_tokens, pool_.size() * tile)) *
      layout.token_bytes;
  layout.middle_bytes =
      round_up(static_cast<std::size_t>(plan.max_tokens * plan.max_rank) * 4, kAlignment);
  return layout;
}

std::size_t LinearRunner::scratch_bytes(const OpsPlan& plan) const {
  const Layout wanted = layout(plan);
  return wanted.input_bytes + wanted.middle_bytes;
}

void LinearRunner::reserve(const OpsPlan& plan) {
  layout_ = layout(plan);
  scratch_ = Pages();
  scratch_ = Pages(layout_.input_bytes + layout_.middle_bytes);
}

void LinearRunner::run(const Linear& linear, Rows x, Rows residual, Rows out) {
  if (x.cols != linear.in_features() || out.cols != linear.out_features() || x.rows != out.rows) {
    fail("a linear of {} x {} was given rows [{}, {}] and asked for [{}, {}]",
         linear.out_features(), linear.in_features(), x.rows, x.cols, out.rows, out.cols);
  }
  if (x.rows > layout_.max_tokens || x.cols > layout_.max_cols ||
      (linear.b && linear.a.cols > layout_.max_rank)) {
    fail("a linear of {} tokens x {} columns exceeds what was reserved: {} x {}", x.rows, x.cols,
         layout_.max_tokens, layout_.max_cols);
  }
  if (linear.b) {
    auto* middle = reinterpret_cast<float*>(scratch_.data() + layout_.input_bytes);
    const Rows rows{middle, x.rows, linear.a.cols, linear.a.cols};
    run_weight(*linear.b, nullptr, x, {}, rows);
    x = rows;
  }
  run_weight(linear.a, linear.bias.data, x, residual, out);
}

void LinearRunner::run_weight(const Weight& weight, const float* bias, Rows x, Rows residual,
                              Rows out) {
  for (std::int64_t first = 0; first < x.rows; first += layout_.block_tokens) {
    const std::int64_t tokens = std::min(layout_.block_tokens, x.rows - first);
    run_block(weight, bias, x.range(first, tokens),
              residual.data != nullptr ? residual.range(first, tokens) : residual,
              out.range(first, tokens));
  }
}

LinearRunner::Inputs LinearRunner::place_inputs(const Weight& weight, std::byte* area,
                                                std::int64_t tokens) const {
  Inputs inputs;
  for (const WeightBand& band : weight.bands) {
    const InputForm form = kernels_.form[static_cast<int>(band.dtype)];
    Tiles& tiles = inputs.forms[static_cast<int>(form)];
    // One input may serve panels that store an odd number of columns and panels that pad it.
    tiles.tile_bytes = input_bytes(form, round_up(weight.cols, std::int64_t{2})) * kernels_.tile;
  }
  const std::int64_t count = ceil_div(tokens, static_cast<std::int64_t>(kernels_.tile));
  for (Tiles& tiles : inputs.forms) {
    if (tiles.tile_bytes == 0) continue;
    tiles.data = area;
    area += count * tiles.tile_bytes;
  }
  return inputs;
}

void LinearRunner::pack(const Inputs& inputs, Rows x, std::int64_t tile) const {
  const std::int64_t first = tile * kernels_.tile;
  const std::int64_t tokens = std::min<std::int64_t>(kernels_.tile, x.rows - first);
  for (int form = 0; form < kInputForms; ++form) {
    const Tiles& tiles = inputs.forms[form];
    if (tiles.data == nullptr) continue;
    kernels_.pack[form]({.x = x.row(first),
                         .stride = x.stride,
                         .tokens = tokens,
                         .cols = x.cols,
                         .tile = tiles.data + tile * tiles.tile_bytes});
  }
}

/// Panels [panel_begin, panel_end) of all bands, counted through, for a range of tokens that begins
/// with a tile.
void LinearRunner::multiply(const Product& product, std::int64_t panel_begin,
                            std::int64_t panel_end, std::int64_t token_begin,
                            std::int64_t token_end) const {
  std::int64_t band_begin = 0;
  for (const WeightBand& band : product.weight.bands) {
    const std::int64_t begin = std::max<std::int64_t>(panel_begin - band_begin, 0);
    const std::int64_t end = std::min(panel_end - band_begin, panels_of(band));
    band_begin += panels_of(band);
    if (begin >= end) continue;
    const auto type = static_cast<int>(band.dtype);
    const Tiles& tiles = product.inputs.forms[static_cast<int>(kernels_.form[type])];
    const std::int64_t bytes = panel_bytes(band.dtype, product.weight.cols);
    const std::int64_t row = band.first_row + begin * kPanelRows;
    const Rows& residual = product.residual;
    kernels_.product[type](
        {.panels = band.data + begin * bytes,
         .panel_bytes = bytes,
         .rows = std::min(end * kPanelRows, band.rows) - begin * kPanelRows,
         .cols = stored_cols(band.dtype, product.weight.cols),
         .tiles = tiles.data + token_begin / kernels_.tile * tiles.tile_bytes,
         .tile_bytes = tiles.tile_bytes,
         .tokens = token_end - token_begin,
         .bias = product.bias != nullptr ? product.bias + row : nullptr,
         .residual = residual.data != nullptr ? residual.row(token_begin) + row : nullptr,
         .residual_stride = residual.stride,
         .out = product.out.row(token_begin) + row,
         .out_stride = product.out.stride});
  }
}

void LinearRunner::run_block(const Weight& weight, const float* bias, Rows x, Rows residual,
                             Rows out) {
  std::int64_t panels = 0;
  for (const WeightBand& band : weight.bands) panels += panels_of(band);
  const std::int64_t tile = kernels_.tile;

  if (x.rows <= std::min(kFewTokens, tile)) {
    // Each thread reads its own run of the matrix from end to end.
    const std::size_t own_bytes = static_cast<std::size_t>(tile) * layout_.token_bytes;
    pool_.run([&](int thread) {
      const std::int64_t begin = panels * thread / pool_.size();
      const std::int64_t end = panels * (thread + 1) / pool_.size();
      if (begin == end) return;
      std::byte* area = scratch_.data() + static_cast<std::size_t>(thread) * own_bytes;
      Inputs inputs = place_inputs(weight, area, x.rows);
      pack(inputs, x, 0);
      multiply({weight, inputs, bias, residual, out}, begin, end, 0, x.rows);
    });
    return;
  }

  const Inputs inputs = place_inputs(weight, scratch_.data(), x.rows);
  const std::int64_t tiles = ceil_div(x.rows, tile);
  pool_.for_each(tiles, [&](std::int64_t index, int) { pack(inputs, x, index); });

  const Product product{weight, inputs, bias, residual, out};
  const std::int64_t blocks = ceil_div(panels, kPanelBlock);
  const std::int64_t wanted = kPiecesPerThread * pool_.size();
  const std::int64_t blocks_a_piece = std::max<std::int64_t>(1, blocks / wanted);
  const std::int64_t columns = ceil_div(blocks, blocks_a_piece);
  const std::int64_t tiles_a_piece = ceil_div(tiles, std::min(ceil_div(wanted, columns), tiles));
  const std::int64_t runs = ceil_div(tiles, tiles_a_piece);
  pool_.for_each(columns * runs, [&](std::int64_t piece, int) {
    const std::int64_t panel = piece / runs * blocks_a_piece * kPanelBlock;
    const std::int64_t token = piece % runs * tiles_a_piece * tile;
    multiply(product, panel, std::min(panel + blocks_a_piece * kPanelBlock, panels), token,
             std::min(token + tiles_a_piece * tile, x.rows));
  });
}

}  // namespace sedpa::cpu
