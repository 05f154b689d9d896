// How a decode program's kernel lays out its shared memory. No GPU is needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "sedpa/backend/cuda/decode_program.h"

namespace sedpa::cuda {
namespace {

// What a block can have at most with compute capability 9.0 (CUDA programming guide, technical
// specifications): 227 KB.
constexpr std::int32_t kHopperBytes = 227 << 10;

ProgramParams laid_out(bool quantized, std::int32_t stage_bytes, std::int32_t tile_keys,
                       std::int32_t merge_bytes = 0) {
  ProgramParams params;
  params.stage_bytes = stage_bytes;
  params.tile_keys = tile_keys;
  params.work_bytes = std::max(program_work_bytes(quantized), merge_bytes);
  params.pass_steps = program_pass_steps(quantized);
  lay_out_program(params, kHopperBytes);
  return params;
}

TEST(ProgramLayout, NothingLiesOverSomethingElse) {
  for (const bool quantized : {false, true}) {
    for (const std::int32_t stage_bytes : {16384, 17408, 18432, 20480, 32768}) {
      for (const std::int32_t tile_keys : {0, 32, 64}) {
        SCOPED_TRACE(testing::Message() << stage_bytes << " bytes, " << tile_keys << " keys");
        const ProgramParams p = laid_out(quantized, stage_bytes, tile_keys);
        const ProgramOffsets& at = p.offsets;
        EXPECT_LE(at.bytes, kHopperBytes);
        std::vector<std::pair<std::int32_t, std::int32_t>> parts = {
            {at.outputs, 4 * p.stages},
            {at.phases, p.slots * static_cast<std::int32_t>(sizeof(ProgramPhase))},
            {at.pieces, p.slots + 1},
            {at.work, p.work_bytes},
            {at.rows, p.pass_steps * (kProgramThreads / 32) * 4},  // sums of warps
            {at.step_outputs, 4 * p.pass_steps},
            {at.residuals, 4 * kProgramThreads},
            {at.barriers, 8 * (2 * p.stages + 3 * p.slots)},
            {at.small, 4 * (kProgramThreads / 32 + 2)}};
        // Of a stage a tile, or products; then the tile's positions.
        for (std::int32_t i = 0; i < p.stages; ++i) {
          const std::int32_t positions = at.positions + i * at.positions_stride;
          const bool within = positions < p.stages * stage_bytes;
          parts.emplace_back(i * stage_bytes, within ? 2 * kProgramTileBytes : stage_bytes);
          parts.emplace_back(positions, 4 * tile_keys);
        }
        std::ranges::sort(parts);
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
          EXPECT_LE(parts[i].first + parts[i].second, parts[i + 1].first) << i;
        }
        EXPECT_LE(parts.back().first + parts.back().second, at.bytes);
        for (const std::int32_t begin : {at.phases, at.work, at.rows, at.barriers}) {
          EXPECT_EQ(begin % 16, 0);
        }
      }
    }
  }
}

TEST(ProgramLayout, TheRingTakesWhatIsLeft) {
  // Llama-3-8B with window heads: states of eight warps, four queries of 128 numbers.
  constexpr std::int32_t kStates = 8 * 4 * (128 + 2) * 4;
  const ProgramParams four_bits = laid_out(true, 18432, 32, kStates);
  EXPECT_EQ(four_bits.stages, 11);
  const ProgramParams bf16 = laid_out(false, 16384, 32, kStates);
  EXPECT_EQ(bf16.stages, 12);
  EXPECT_EQ(bf16.slots, 8);
  for (const ProgramParams& p : {four_bits, bf16}) {
    EXPECT_GT(p.offsets.bytes + p.stage_bytes, kHopperBytes) << "there is room for one more";
  }
}

}  // namespace
}  // namespace sedpa::cuda
