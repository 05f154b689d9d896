#include "sedpa/backend/cpu/weights.h"

#include <algorithm>
#include <vector>

#include "sedpa/backend/cpu/panel_format.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa::cpu {
namespace {

constexpr std::size_t kArenaBlock = std::size_t{32} << 20;
/// Bytes of rows that are read at once; at least one panel's rows.
constexpr std::int64_t kStagingBytes = std::int64_t{1} << 20;

/// Rows of one source as panels from `data` on. Rows are read in order, panels packed by all.
void pack_source(const MatrixSource& source, Compute compute, ThreadPool& pool, std::byte* data) {
  const Dtype stored = stored_dtype(source.dtype, compute);
  const std::int64_t from_bytes = row_bytes(source.dtype, source.cols);
  const std::int64_t to_bytes = panel_bytes(stored, source.cols);
  const std::int64_t staged_panels =
      std::max<std::int64_t>(1, kStagingBytes / std::max<std::int64_t>(1, kPanelRows * from_bytes));
  const std::int64_t staged_rows = std::min(source.rows, staged_panels * kPanelRows);
  std::vector<std::byte> staging(static_cast<std::size_t>(staged_rows * from_bytes));
  // Decoded rows of one panel for each thread, where numbers are stored instead of blocks.
  const bool decode = stored != source.dtype;
  const auto decoded_size = static_cast<std::size_t>(kPanelRows * source.cols);
  std::vector<float> decoded(decode ? decoded_size * static_cast<std::size_t>(pool.size()) : 0);

  for (std::int64_t row = 0; row < source.rows; row += staged_rows) {
    const std::int64_t count = std::min(staged_rows, source.rows - row);
    source.read(row, count, staging.data());
    pool.for_each(ceil_div(count, kPanelRows), [&](std::int64_t panel, int thread) {
      const std::int64_t first = panel * kPanelRows;
      const std::int64_t rows = std::min(kPanelRows, count - first);
      const std::byte* from = staging.data() + first * from_bytes;
      std::byte* to = data + (row / kPanelRows + panel) * to_bytes;
      if (!decode) return pack_panel(stored, from, rows, source.cols, to);
      float* numbers = decoded.data() + decoded_size * static_cast<std::size_t>(thread);
      for (std::int64_t r = 0; r < rows; ++r) {
        dequantize_row(source.dtype, from + r * from_bytes, source.cols, numbers + r * source.cols);
      }
      pack_f32_panel(numbers, rows, source.cols, to);
    });
  }
}

}  // namespace

PageArena::Piece PageArena::take(std::size_t bytes) {
  const std::size_t rounded = round_up(bytes, kAlignment);
  if (rounded >= kArenaBlock / 2) {
    auto own = std::make_shared<Pages>(rounded);
    return {own->data(), own};
  }
  if (pages_ == nullptr || used_ + rounded > pages_->size()) {
    pages_ = std::make_shared<Pages>(kArenaBlock);
    used_ = 0;
  }
  std::byte* data = pages_->data() + used_;
  used_ += rounded;
  return {data, pages_};
}

Dtype stored_dtype(Dtype dtype, Compute compute) {
  return compute == Compute::f32 ? Dtype::f32 : dtype;
}

std::size_t band_bytes(Dtype dtype, std::int64_t rows, std::int64_t cols, Compute compute) {
  if (rows < 0 || cols <= 0 || cols % block_size(dtype) != 0) {
    fail("a {} matrix of {} x {} cannot be stored: columns must be a multiple of {}", name(dtype),
         rows, cols, block_size(dtype));
  }
  const Dtype stored = stored_dtype(dtype, compute);
  const auto elements = checked_mul(round_up(rows, kPanelRows), cols);
  // Four bytes an element is the most that any panel takes, padding of odd bf16 columns included.
  if (!elements || !checked_mul(*elements, std::int64_t{8})) {
    fail("a matrix of {} x {} is too large", rows, cols);
  }
  return static_cast<std::size_t>(ceil_div(rows, kPanelRows) * panel_bytes(stored, cols));
}

Weight make_weight(std::span<const MatrixSource> sources, Compute compute, ThreadPool& pool,
                   PageArena& arena) {
  Weight weight;
  for (const MatrixSource& source : sources) {
    if (weight.rows > 0 && source.cols != weight.cols) {
      fail("matrices of {} and {} columns cannot be stacked", weight.cols, source.cols);
    }
    weight.cols = source.cols;
    weight.rows += source.rows;
    weight.bytes += band_bytes(source.dtype, source.rows, source.cols, compute);
  }
  const PageArena::Piece piece = arena.take(weight.bytes);
  weight.storage = piece.storage;

  std::byte* data = piece.data;
  std::int64_t first_row = 0;
  for (const MatrixSource& source : sources) {
    const Dtype stored = stored_dtype(source.dtype, compute);
    pack_source(source, compute, pool, data);
    WeightBand* last = weight.bands.empty() ? nullptr : &weight.bands.back();
    if (last != nullptr && last->dtype == stored && last->rows % kPanelRows == 0) {
      last->rows += source.rows;
    } else {
      weight.bands.push_back(
          {.dtype = stored, .first_row = first_row, .rows = source.rows, .data = data});
    }
    first_row += source.rows;
    data += band_bytes(source.dtype, source.rows, source.cols, compute);
  }
  return weight;
}

void read_row(const Weight& weight, std::int64_t row, float* out) {
  for (const WeightBand& band : weight.bands) {
    const std::int64_t at = row - band.first_row;
    if (at < 0 || at >= band.rows) continue;
    const std::byte* panel = band.data + at / kPanelRows * panel_bytes(band.dtype, weight.cols);
    return unpack_panel_row(band.dtype, panel, at % kPanelRows, weight.cols, out);
  }
  fail("row {} of a matrix of {} rows was asked for", row, weight.rows);
}

}  // namespace sedpa::cpu
