#include "sedpa/backend/cuda/program_phases.h"

#include <algorithm>
#include <bit>

#include "sedpa/core/checked.h"

namespace sedpa::cuda {

std::optional<ProductPhase> plan_product(const RowProduct& product) {
  const GemvJob& job = product.job;
  const Dtype dtype = product.dtype;
  if (dtype == Dtype::f32 || job.outputs <= 0) return std::nullopt;
  ProductPhase phase;
  phase.job = job;
  phase.layout = row_layout(dtype, job.cols);
  phase.dtype = dtype;
  // Of 16-bit numbers half of what a thread can own, so that steps are small, up to all threads to
  // a row.
  const std::int64_t thread_cols =
      is_quantized(dtype) ? kProgramThreadCols : kProgramThreadCols / 2;
  const std::int32_t most_log2 =
      job.up_rows != nullptr ? kProgramThreadsLog2 - 1 : kProgramThreadsLog2;
  while (thread_cols << phase.row_threads_log2 < job.cols && phase.row_threads_log2 < most_log2) {
    ++phase.row_threads_log2;
  }
  const bool fits = (std::int64_t{kProgramThreadCols} << phase.row_threads_log2) >= job.cols;
  const bool aligned = reinterpret_cast<std::uintptr_t>(job.x) % 16 == 0 && job.cols % 8 == 0;
  if (!fits || !aligned) return std::nullopt;
  constexpr std::int32_t kPart = kProgramThreads * kProgramThreadCols / 2 * 2;  // bytes
  if (!is_quantized(dtype) && phase.row_threads_log2 == kProgramThreadsLog2 &&
      phase.layout.bytes > kPart) {
    phase.row_parts = 2;
    phase.part_bytes = kPart;
  }
  if (phase.least_stage() > kProgramMostStageBytes) return std::nullopt;
  return phase;
}

std::int32_t plan_stages(std::span<ProgramPhase> phases) {
  // Two steps of quantised rows, where those are no more than this.
  constexpr std::int64_t kMostPairBytes = 20480;
  // At least a tile: small rows come many at a time.
  std::int64_t bytes = std::int64_t{2} * kProgramTileBytes;
  for (ProgramPhase& phase : phases) {
    for (const ProductPhase& product : phase.all_products()) {
      bytes = std::max(bytes, product.least_stage());
      const std::int64_t pair = 2 * product.step_bytes();
      if (is_quantized(product.dtype) && pair <= kMostPairBytes) bytes = std::max(bytes, pair);
    }
  }
  const auto stage = static_cast<std::int32_t>(round_up(bytes, std::int64_t{kProgramAlignment}));
  for (ProgramPhase& phase : phases) {
    for (ProductPhase& product : phase.all_products()) {
      if (product.row_parts == 1) {
        // A group of steps is some whole stages.
        const auto fitting = static_cast<std::uint64_t>(stage / product.step_bytes());
        product.stage_steps = std::min(static_cast<std::int32_t>(std::bit_floor(fitting)),
                                       product.most_stage_steps());
        product.part_bytes = stage;
      }
      const std::int64_t stages =
          ceil_div(product.job.outputs, std::int64_t{product.stage_outputs()});
      product.shares = StageShares::make(static_cast<std::int32_t>(stages), product.ctas);
    }
  }
  return stage;
}

void share_ctas(std::span<ProductPhase> products, std::int32_t ctas) {
  const auto bytes_a_cta = [](const ProductPhase& product) {
    const std::int64_t rows = product.job.outputs * (product.job.up_rows != nullptr ? 2 : 1);
    return static_cast<double>(rows * product.layout.bytes) / product.ctas;
  };
  for (ProductPhase& product : products) product.ctas = 1;
  for (auto left = ctas - static_cast<std::int32_t>(products.size()); left > 0; --left) {
    ++std::ranges::max_element(products, {}, bytes_a_cta)->ctas;
  }
  std::int32_t first = 0;
  for (ProductPhase& product : products) {
    product.first_cta = first;
    first += product.ctas;
  }
}

}  // namespace sedpa::cuda
