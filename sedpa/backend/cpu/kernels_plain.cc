#include "sedpa/backend/cpu/kernels_product.h"
#include "sedpa/backend/cpu/kernels_table.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

template <class Panel>
void set(Kernels& table, Dtype dtype, InputForm form) {
  table.form[static_cast<int>(dtype)] = form;
  table.product[static_cast<int>(dtype)] = multiply<Panel>;
}

}  // namespace

void fill_plain_products(Kernels& table) {
  set<F32Panel>(table, Dtype::f32, InputForm::f32);
  set<F16Panel>(table, Dtype::f16, InputForm::f32);
  set<Bf16Panel>(table, Dtype::bf16, kNativeBf16 ? InputForm::bf16 : InputForm::f32);
}

}  // namespace sedpa::cpu::SEDPA_ISA
