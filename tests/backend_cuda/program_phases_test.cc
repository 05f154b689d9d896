// What of a decode program's phases is decided on the host. No GPU is needed.
#include "sedpa/backend/cuda/program_phases.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace sedpa::cuda {
namespace {

alignas(16) float x[16384];

RowProduct product(Dtype dtype, std::int64_t outputs, std::int64_t cols) {
  return {dtype, {.cols = cols, .outputs = outputs, .x = x}};
}

/// Products of these sizes, side by side on so many CTAs.
ProgramPhase phase_of(const std::vector<RowProduct>& products, std::int32_t ctas) {
  ProgramPhase phase;
  for (const RowProduct& p : products) phase.product[phase.products++] = plan_product(p).value();
  share_ctas(phase.all_products(), ctas);
  return phase;
}

TEST(ProgramPhases, EveryStageIsGivenOnceOrLeftToWhoComesFirst) {
  for (const int ctas : {1, 3, 44, 132}) {
    for (const int stages : {1, 2, 43, 44, 512, 1056, 3167, 3168, 3169, 12345, 65536}) {
      SCOPED_TRACE(testing::Message() << stages << " stages, " << ctas << " CTAs");
      int next = 0;
      int most = 0;
      int least = stages;
      const StageShares shares = StageShares::make(stages, ctas);
      const int given = shares.given;
      for (int cta = 0; cta < ctas; ++cta) {
        EXPECT_EQ(shares.begin(cta), next);
        EXPECT_GE(shares.count(cta), 0);
        next += shares.count(cta);
        most = std::max(most, shares.count(cta));
        least = std::min(least, shares.count(cta));
      }
      EXPECT_EQ(shares.stages, stages);
      EXPECT_EQ(next, given);
      EXPECT_LE(given, stages);
      EXPECT_LE(most - least, 1);
      // Drawing pays where a CTA's share is long; before, nobody has more than a stage more.
      EXPECT_EQ(given < stages, stages >= 24 * ctas);
    }
  }
}

TEST(ProgramPhases, EveryCtaHasAShareOfOneProduct) {
  for (const auto& products : std::vector<std::vector<RowProduct>>{
           {product(Dtype::bf16, 4096, 1024)},
           {product(Dtype::bf16, 1024, 4096), product(Dtype::bf16, 64, 4096)},
           {product(Dtype::q8_0, 1, 256), product(Dtype::f16, 5, 64), product(Dtype::bf16, 1, 8)},
       }) {
    for (const std::int32_t ctas : {3, 78, 132}) {
      const ProgramPhase phase = phase_of(products, ctas);
      std::vector<std::int32_t> found(products.size());
      for (std::int32_t cta = 0; cta < ctas; ++cta) {
        const ProductPhase& own = phase.product_of(cta);
        EXPECT_GE(cta, own.first_cta);
        EXPECT_LT(cta, own.first_cta + own.ctas);
        ++found[static_cast<std::size_t>(&own - phase.product)];
      }
      for (std::size_t i = 0; i < products.size(); ++i) {
        EXPECT_EQ(found[i], phase.product[i].ctas);
        EXPECT_GE(found[i], 1);
      }
    }
  }
}

TEST(ProgramPhases, CtasFollowBytes) {
  // The factors at the right of query and value, and the whole key matrix between them.
  const ProgramPhase first =
      phase_of({product(Dtype::bf16, 1024, 4096), product(Dtype::bf16, 4096, 4096),
                product(Dtype::bf16, 1024, 4096)},
               132);
  EXPECT_EQ(first.product[0].ctas, 22);
  EXPECT_EQ(first.product[1].ctas, 88);
  EXPECT_EQ(first.product[2].ctas, 22);
  // Bytes, not rows or numbers.
  const ProgramPhase types =
      phase_of({product(Dtype::bf16, 1024, 1024), product(Dtype::q8_0, 1024, 1024)}, 100);
  EXPECT_NEAR(types.product[0].ctas, 100 * 2 / (2 + 34.0 / 32), 1);
  EXPECT_EQ(types.product[0].ctas + types.product[1].ctas, 100);
}

TEST(ProgramPhases, ProductsThatDoNotSuitAreLeftToOthers) {
  EXPECT_TRUE(plan_product(product(Dtype::bf16, 8, 1024)));
  EXPECT_FALSE(plan_product(product(Dtype::f32, 8, 1024)));
  EXPECT_FALSE(plan_product(product(Dtype::bf16, 0, 1024)));
  EXPECT_FALSE(plan_product(product(Dtype::bf16, 8, 1020))) << "not a whole number of pieces";
  EXPECT_FALSE(plan_product(product(Dtype::bf16, 8, 16392))) << "more than threads can own";
  RowProduct unaligned = product(Dtype::bf16, 8, 1024);
  unaligned.job.x = x + 1;
  EXPECT_FALSE(plan_product(unaligned));
}

TEST(ProgramPhases, AStepIsARowForEachGroupOfThreads) {
  const auto rows_a_step = [](Dtype dtype, std::int64_t cols) {
    const ProductPhase phase = plan_product(product(dtype, 8, cols)).value();
    EXPECT_EQ(phase.step_bytes() % phase.layout.bytes, 0);
    return phase.step_bytes() / phase.layout.bytes;
  };
  EXPECT_EQ(rows_a_step(Dtype::bf16, 64), 8);
  EXPECT_EQ(rows_a_step(Dtype::bf16, 1024), 8);
  EXPECT_EQ(rows_a_step(Dtype::bf16, 4096), 2);
  EXPECT_EQ(rows_a_step(Dtype::bf16, 8192), 1);
  EXPECT_EQ(rows_a_step(Dtype::q8_0, 4096), 4);
  // Rows that are longer than what threads take at a time go in two parts.
  const ProductPhase down = plan_product(product(Dtype::bf16, 8, 11008)).value();
  EXPECT_EQ(down.row_parts, 2);
  EXPECT_EQ(down.least_stage(), 16384);
}

/// Phases of a product each.
std::vector<ProgramPhase> phases_of(const std::vector<RowProduct>& products) {
  std::vector<ProgramPhase> phases;
  for (const RowProduct& p : products) phases.push_back(phase_of({p}, 132));
  return phases;
}

TEST(ProgramPhases, AStageHoldsSomeStepsAndAGroupOfStepsSomeStages) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::q8_0, Dtype::q6_k, Dtype::q4_0, Dtype::q4_k}) {
    for (const std::int64_t cols : {256, 512, 1024, 1536, 2048, 4096, 8192, 14336}) {
      SCOPED_TRACE(testing::Message() << name(dtype) << ", " << cols << " columns");
      std::vector<ProgramPhase> phases = phases_of({product(dtype, 4096, cols)});
      const std::int32_t stage = plan_stages(phases);
      const ProductPhase& phase = phases[0].product[0];
      EXPECT_EQ(program_group_steps(is_quantized(dtype)) % phase.stage_steps, 0);
      EXPECT_LE(phase.row_parts > 1 ? phase.part_bytes : phase.stage_steps * phase.step_bytes(),
                stage);
      if (is_quantized(dtype) && phase.stage_steps > 2) {
        EXPECT_LE(cols, kProgramThreadCols / 2 << phase.row_threads_log2)
            << "more steps are multiplied by half of what a thread can own";
      }
      EXPECT_LE(stage, kProgramMostStageBytes);
      EXPECT_GE(stage, 2 * kProgramTileBytes) << "no room for a tile of keys and values";
    }
  }
}

TEST(ProgramPhases, TwoStepsOfFourBitRowsFillAStage) {
  // Llama-3-8B's rows: 2,304 and 8,064 bytes, four and one side by side.
  std::vector<ProgramPhase> phases =
      phases_of({product(Dtype::q4_0, 6144, 4096), product(Dtype::q4_0, 4096, 14336)});
  EXPECT_EQ(plan_stages(phases), 2 * 4 * 2304);
  for (const ProgramPhase& phase : phases) EXPECT_EQ(phase.product[0].stage_steps, 2);
  // Of eight bits one step fills it.
  std::vector<ProgramPhase> wide = phases_of({product(Dtype::q8_0, 6144, 4096)});
  EXPECT_EQ(plan_stages(wide), 4 * 4352);
  EXPECT_EQ(wide[0].product[0].stage_steps, 1);
}

TEST(ProgramPhases, TilesAreNamedByTypeWidthAndWhetherRowsAreThin) {
  using enum ProgramTiles;
  const auto all = [](KvDtype dtype) {
    return std::vector{program_tiles(dtype, 128, false), program_tiles(dtype, 64, false),
                       program_tiles(dtype, 128, true), program_tiles(dtype, 64, true)};
  };
  EXPECT_EQ(all(KvDtype::f16), (std::vector{f16_128, f16_64, f16_128_thin, f16_64_thin}));
  EXPECT_EQ(all(KvDtype::bf16), (std::vector{bf16_128, bf16_64, bf16_128_thin, bf16_64_thin}));
  EXPECT_EQ(all(KvDtype::q8), (std::vector{q8_128, q8_64, q8_128_thin, q8_64_thin}));
}

}  // namespace
}  // namespace sedpa::cuda
