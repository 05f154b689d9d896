#include "sedpa/backend/cuda/linear_backward.h"

#include <algorithm>

#include "sedpa/backend/cuda/dequantize.h"
#include "sedpa/backend/cuda/weight_format.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

constexpr std::int64_t kAlignment = 256;
/// Rows of d_out at once.
constexpr std::int64_t kBlockRows = 4096;
/// Decoded weights at once: within these bytes, but kLeastSlabRows rows.
constexpr std::int64_t kSlabBytes = std::int64_t{16} << 20;
constexpr std::int64_t kLeastSlabRows = 64;
constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;

}  // namespace

LinearBackward::Layout LinearBackward::layout_for(const TrainPlan& plan) {
  Layout layout;
  layout.max_rows = plan.max_tokens;
  layout.max_cols = std::max(plan.max_cols, plan.max_rank);
  layout.max_rank = plan.max_rank;
  layout.block_rows = std::min(plan.max_tokens, kBlockRows);
  const std::int64_t row = packed_cols(layout.max_cols) * std::int64_t{sizeof(float)};
  // No matrix has more rows than max_cols.
  const std::int64_t rows =
      std::min(packed_cols(layout.max_cols), std::max(kSlabBytes / row, kLeastSlabRows));
  layout.slab = round_up(rows * row, kAlignment);
  layout.packed = round_up(layout.block_rows * row, kAlignment);
  layout.middle =
      round_up(plan.max_tokens * plan.max_rank * std::int64_t{sizeof(float)}, kAlignment);
  layout.workspace = kWorkspaceBytes;
  return layout;
}

std::size_t LinearBackward::scratch_bytes(const TrainPlan& plan) {
  return static_cast<std::size_t>(layout_for(plan).bytes());
}

void LinearBackward::reserve(const TrainPlan& plan) {
  layout_ = layout_for(plan);
  scratch_ = DeviceMemory();
  scratch_ = DeviceMemory(static_cast<std::size_t>(layout_.bytes()));
  gemm_.set_workspace(middle() + layout_.middle, static_cast<std::size_t>(layout_.workspace));
}

void LinearBackward::run(const Linear& linear, Rows d_out, Rows d_x) {
  if (d_out.cols != linear.out_features() || d_x.cols != linear.in_features() ||
      d_out.rows != d_x.rows) {
    fail("the gradient of a linear of {} x {} was given rows [{}, {}] and asked for [{}, {}]",
         linear.out_features(), linear.in_features(), d_out.rows, d_out.cols, d_x.rows, d_x.cols);
  }
  if (d_x.rows > layout_.max_rows || std::max(d_out.cols, d_x.cols) > layout_.max_cols ||
      (linear.b && linear.a.cols > layout_.max_rank)) {
    fail("the gradient of a linear of {} rows x {} columns exceeds what was reserved: {} x {}",
         d_x.rows, std::max(d_out.cols, d_x.cols), layout_.max_rows, layout_.max_cols);
  }
  if (linear.b) {
    const Rows between{reinterpret_cast<float*>(middle()), d_out.rows, linear.a.cols,
                       linear.a.cols};
    multiply(linear.a, d_out, between);
    multiply(*linear.b, between, d_x);
  } else {
    multiply(linear.a, d_out, d_x);
  }
}

void LinearBackward::multiply(const Weight& weight, Rows d_out, Rows d_x) {
  bool add = false;
  for (const WeightBand& band : weight.bands) {
    const std::int64_t row = packed_cols(weight.cols) * number_bytes(decoded_type(band.dtype));
    const std::int64_t most = layout_.slab / row / 8 * 8;
    for (std::int64_t first = 0; first < band.rows; first += most, add = true) {
      multiply_slab(band, first, std::min(most, band.rows - first), d_out, d_x, add);
    }
  }
}

/// d_x += what rows [first, first + count) of a band give; without `add`, d_x is that.
void LinearBackward::multiply_slab(const WeightBand& band, std::int64_t first, std::int64_t count,
                                   Rows d_out, Rows d_x, bool add) {
  const Dtype type = decoded_type(band.dtype);
  const std::int64_t depth = packed_cols(count);
  const std::byte* rows = band.data + first * row_layout(band.dtype, d_x.cols).bytes;
  decode_rows(band.dtype, rows, count, d_x.cols, depth, slab(), stream_);
  const Rows columns = d_out.columns(band.first_row + first, count);
  for (std::int64_t begin = 0; begin < d_x.rows; begin += layout_.block_rows) {
    const Rows out = d_x.range(begin, std::min(layout_.block_rows, d_x.rows - begin));
    pack_rows(columns.range(begin, out.rows), nullptr, 0, type, packed(), stream_);
    gemm_.run({.rows = out.rows,
               .outputs = out.cols,
               .depth = depth,
               .type = type,
               .x = packed(),
               .x_stride = depth,
               .w = slab(),
               .w_stride = packed_cols(out.cols),
               .turned = true,
               .residual = add ? out.data : nullptr,
               .residual_stride = out.stride,
               .out = reinterpret_cast<std::byte*>(out.data),
               .out_stride = out.stride},
              stream_);
  }
}

}  // namespace sedpa::cuda
