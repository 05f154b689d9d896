#pragma once
// What the attention kernel sources of one instruction set give each other for their table.
#include "sedpa/backend/cpu/attention_kernels.h"

namespace sedpa::cpu::SEDPA_ISA {

void fill_tile_attention(AttentionKernels& table);
void fill_direct_attention(AttentionKernels& table);

/// The whole table, filled on first use.
const AttentionKernels& attention_table();

}  // namespace sedpa::cpu::SEDPA_ISA
