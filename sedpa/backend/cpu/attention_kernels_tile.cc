#include "sedpa/backend/cpu/attention_kernels_table.h"
#include "sedpa/backend/cpu/attention_tile.h"

namespace sedpa::cpu::SEDPA_ISA {

void fill_tile_attention(AttentionKernels& table) {
  const auto exact = static_cast<int>(Compute::f32);
  const auto fast = static_cast<int>(Compute::fast);
  table.pairs[exact] = false;
  table.begin_tile[exact] = begin_tile<F32Words>;
  table.step_tile[exact] = step_tile<F32Words>;
#if SEDPA_ISA_LEVEL == 2
  table.pairs[fast] = true;
  table.begin_tile[fast] = begin_tile<Bf16Words>;
  table.step_tile[fast] = step_tile<Bf16Words>;
#else
  table.pairs[fast] = false;
  table.begin_tile[fast] = begin_tile<F32Words>;
  table.step_tile[fast] = step_tile<F32Words>;
#endif
  table.end_tile = end_tile;
}

}  // namespace sedpa::cpu::SEDPA_ISA
