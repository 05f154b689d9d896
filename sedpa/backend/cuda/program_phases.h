#pragma once
// What a decode program (decode_program.h) is made of: its phases, and who does what of them.
// Plain structs and arithmetic for host and device.
#include <cuda.h>

#include <cstdint>
#include <optional>
#include <span>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/gemv.h"
#include "sedpa/backend/cuda/program_exchange.h"
#include "sedpa/backend/cuda/weight_format.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

inline constexpr int kProgramThreadsLog2 = 8;
inline constexpr int kProgramThreads = 1 << kProgramThreadsLog2;  // that compute
inline constexpr int kProgramThreadCols = 64;      // of x, that a thread owns at most
inline constexpr int kProgramTileBytes = 1 << 13;  // keys of a tile; values take as much
inline constexpr int kProgramMostStageBytes = 1 << 15;
inline constexpr int kProgramAlignment = 1024;     // of stages: boxes, swizzled by 128 bytes
inline constexpr int kProgramMostPhasesLog2 = 10;  // of a pass
/// Steps whose sums are formed together.
constexpr int program_group_steps(bool quantized) { return quantized ? 8 : 4; }
/// Steps of a pass, whose sums there is room for; of quantised weights fewer, for a longer ring.
constexpr int program_pass_steps(bool quantized) { return quantized ? 64 : 160; }
/// Products that stand side by side in a phase: query, key and value.
inline constexpr int kProgramProducts = 3;

/// Numbers of a row of a program's tiles, for those of AttentionParams; 0: it has none so wide.
constexpr int program_tile_dim(int tile_dim) {
  return tile_dim <= 64 ? 64 : tile_dim <= 128 ? 128 : 0;
}
/// Keys of a tile.
constexpr int program_tile_keys(int tile_dim) { return kProgramTileBytes / (2 * tile_dim); }

/// A product of one row, as a backend asks for it.
struct RowProduct {
  Dtype dtype = Dtype::f32;
  GemvJob job;
};

/// Who asks for which stages of a product: each CTA for some that follow each other, and for some
/// of those from `given` on, which go to who comes first, since the memory does not serve all
/// alike. Where a CTA has but few stages all are given: to take note of drawn ones would cost more.
struct StageShares {
  std::int32_t stages = 0;  // of all CTAs
  std::int32_t given = 0;
  std::int32_t each = 0;  // of a CTA
  std::int32_t more = 0;  // CTAs, the first ones, that have one more

  static constexpr StageShares make(std::int32_t stages, std::int32_t ctas) {
    constexpr std::int32_t kFew = 24;
    if (stages < kFew * ctas) return {stages, stages, stages / ctas, stages % ctas};
    const std::int32_t quota = stages * 7 / 8 / ctas;
    return {stages, quota * ctas, quota, 0};
  }
  [[nodiscard]] constexpr bool some_are_drawn() const { return given < stages; }
  [[nodiscard]] constexpr std::int32_t begin(std::int32_t cta) const {
    return cta * each + (cta < more ? cta : more);
  }
  [[nodiscard]] constexpr std::int32_t count(std::int32_t cta) const {
    return each + (cta < more ? 1 : 0);
  }
};

/// A product of one row, and the CTAs that share it. L threads share a row of the matrix;
/// threads / L rows side by side are a step; a stage of the ring holds some steps, or a part of a
/// row.
struct ProductPhase {
  GemvJob job;
  RowLayout layout;
  Dtype dtype = Dtype::f32;
  std::int32_t row_threads_log2 = 5;  // L
  std::int32_t stage_steps = 1;
  std::int32_t row_parts = 1;   // 2: long rows of 16-bit numbers, half of the threads' pieces each
  std::int32_t part_bytes = 0;  // of the first part; else of all rows of a stage
  std::int32_t first_cta = 0;
  std::int32_t ctas = 0;
  StageShares shares;
  std::int32_t* drawn = nullptr;  // stages that have gone to who came first; zero at the start
  // Places in the exchange. Where there is one, the job reads there; what no later phase of the
  // launch writes over goes to its own memory, too.
  std::int32_t x_from = ProgramExchange::kBefore;
  std::int32_t gate_from = ProgramExchange::kBefore;
  std::int32_t residual_from = ProgramExchange::kBefore;
  std::int32_t out_to = 0;
  float* sent = nullptr;  // [outputs], in the exchange

  /// Outputs of a step. Gate and up rows go side by side: the first half of a step's rows are of
  /// the gate, the second of up.
  [[nodiscard]] constexpr std::int32_t step_outputs_log2() const {
    return kProgramThreadsLog2 - row_threads_log2 - (job.up_rows != nullptr ? 1 : 0);
  }
  [[nodiscard]] constexpr std::int32_t step_outputs() const { return 1 << step_outputs_log2(); }
  /// Of a stage, or of the parts of a row.
  [[nodiscard]] constexpr std::int32_t stage_outputs() const {
    return stage_steps * step_outputs();
  }
  /// Bytes of a step.
  [[nodiscard]] constexpr std::int64_t step_bytes() const {
    return (kProgramThreads >> row_threads_log2) * layout.bytes;
  }
  /// Of quantised rows that are not short two steps are multiplied at once, and no more.
  [[nodiscard]] constexpr std::int32_t most_stage_steps() const {
    const bool quantized = is_quantized(dtype);
    const bool short_rows = job.cols <= (std::int64_t{kProgramThreadCols / 2} << row_threads_log2);
    return quantized && !short_rows ? 2 : program_group_steps(quantized);
  }
  /// Bytes that a stage has to hold at least.
  [[nodiscard]] constexpr std::int64_t least_stage() const {
    return row_parts > 1 ? part_bytes : step_bytes();
  }
};

/// What a class's tiles are: type and the tile's numbers of a row; thin: rows have fewer, or (q8)
/// do not begin at multiples of 4 bytes.
enum class ProgramTiles : std::uint8_t {
  f16_128,
  f16_64,
  f16_128_thin,
  f16_64_thin,
  bf16_128,
  bf16_64,
  bf16_128_thin,
  bf16_64_thin,
  q8_128,
  q8_64,
  q8_128_thin,
  q8_64_thin,
};

/// Of a class that a program takes. tile_dim: 64, 128.
[[nodiscard]] constexpr ProgramTiles program_tiles(KvDtype dtype, std::int32_t tile_dim,
                                                   bool thin) {
  const int type = dtype == KvDtype::f16 ? 0 : dtype == KvDtype::bf16 ? 1 : 2;
  return static_cast<ProgramTiles>(4 * type + (thin ? 2 : 0) + (tile_dim == 64 ? 1 : 0));
}

/// A layer's attention, norms, RoPE and commit.
struct AttentionPhase {
  AttentionParams params;
  ProgramTiles tiles[kHeadClasses] = {};
  std::int16_t row_blocks = 0;     // units of a head
  std::int32_t part_words = 0;     // of a CTA's part: [rows] max and sum, out [rows, dim]
  std::uint64_t* parts = nullptr;  // [CTAs, part_words]
  // In device memory: keys, values of each class; of q8 there are none.
  const CUtensorMap* maps = nullptr;
  // Places in the exchange, as a product's.
  std::int32_t queries_from = ProgramExchange::kBefore;
  std::int32_t keys_from = ProgramExchange::kBefore;
  std::int32_t values_from = ProgramExchange::kBefore;
  std::int32_t out_to = 0;
  // The first of all queries, keys, values that are read, and of the results.
  const float* queries = nullptr;
  const float* keys = nullptr;
  const float* values = nullptr;
  float* sent = nullptr;
};

/// Products, none of which reads or writes what another writes, or an attention.
struct alignas(16) ProgramPhase {
  std::int32_t products = 0;  // 0: it attends
  union {
    ProductPhase product[kProgramProducts];
    AttentionPhase attention;
  };

  ProgramPhase() : product{} {}
  explicit ProgramPhase(const AttentionPhase& phase) : attention(phase) {}
  [[nodiscard]] constexpr bool attends() const { return products == 0; }
  [[nodiscard]] std::span<ProductPhase> all_products() {
    return std::span(product).first(static_cast<std::size_t>(products));
  }
  /// The product that a CTA has a share of.
  [[nodiscard]] constexpr const ProductPhase& product_of(std::int32_t cta) const {
    int i = products - 1;
    while (product[i].first_cta > cta) --i;
    return product[i];
  }
};

/// How a product is cut into steps; none where it does not suit the kernel.
[[nodiscard]] std::optional<ProductPhase> plan_product(const RowProduct& product);
/// Gives the products of a launch, which have their CTAs, their steps of a stage and their shares;
/// a stage's bytes, for tiles and products.
[[nodiscard]] std::int32_t plan_stages(std::span<ProgramPhase> phases);
/// Gives each of up to kProgramProducts products a run of CTAs, at least one, so that the most
/// bytes that a CTA has to read are as few as can be.
void share_ctas(std::span<ProductPhase> products, std::int32_t ctas);

}  // namespace sedpa::cuda
