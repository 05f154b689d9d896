#include "sedpa/backend/cpu/attention_direct.h"
#include "sedpa/backend/cpu/attention_kernels_table.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

void step_direct(const DirectRows& rows, KvDtype dtype, const DirectKeys& keys) {
#define SEDPA_STEP(TYPE) step_direct_of<TYPE>(rows, keys)
  SEDPA_FOR_KV_DTYPE(dtype, SEDPA_STEP)
#undef SEDPA_STEP
}

}  // namespace

void fill_direct_attention(AttentionKernels& table) { table.step_direct = step_direct; }

}  // namespace sedpa::cpu::SEDPA_ISA
