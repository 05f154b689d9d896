#include "sedpa/backend/cpu/kernels_product.h"
#include "sedpa/backend/cpu/kernels_table.h"
#include "sedpa/backend/cpu/panel_quantized.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

template <Dtype kType>
void set(Kernels& table) {
  table.form[static_cast<int>(kType)] = InputForm::codes;
  table.product[static_cast<int>(kType)] = multiply<QuantizedPanel<kType>>;
}

}  // namespace

void fill_quantized_products(Kernels& table) {
  set<Dtype::q8_0>(table);
  set<Dtype::q4_0>(table);
  set<Dtype::q4_1>(table);
  set<Dtype::q5_0>(table);
  set<Dtype::q5_1>(table);
  set<Dtype::q4_k>(table);
  set<Dtype::q5_k>(table);
  set<Dtype::q6_k>(table);
  set<Dtype::iq4_nl>(table);
}

}  // namespace sedpa::cpu::SEDPA_ISA
