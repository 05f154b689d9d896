#include "sedpa/backend/cpu/kernels_table.h"

#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {

const Kernels& table() {
  static const Kernels instance = [] {
    Kernels made{};
    made.tile = kTile;
    fill_plain_products(made);
    fill_quantized_products(made);
    fill_packing(made);
    fill_elementwise(made);
    fill_training(made);
    fill_ceilings(made);
    return made;
  }();
  return instance;
}

}  // namespace sedpa::cpu::SEDPA_ISA
