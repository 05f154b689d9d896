#pragma once
// What the kernel sources of one instruction set give each other for their table.
#include "sedpa/backend/cpu/kernels.h"

namespace sedpa::cpu::SEDPA_ISA {

void fill_plain_products(Kernels& table);
void fill_quantized_products(Kernels& table);
void fill_packing(Kernels& table);
void fill_elementwise(Kernels& table);
void fill_training(Kernels& table);
void fill_ceilings(Kernels& table);

/// The whole table, filled on first use.
const Kernels& table();

}  // namespace sedpa::cpu::SEDPA_ISA
