#include "sedpa/backend/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "sedpa/core/fail.h"

namespace sedpa::cpu {

// Defined by the compilations of kernels_table.cc that this program has.
namespace baseline {
const Kernels& table();
}
namespace avx2 {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}

const Kernels* compiled_kernels(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return &baseline::table();
    case Isa::avx2:
#if defined(SEDPA_HAVE_AVX2)
      return &avx2::table();
#else
      return nullptr;
#endif
    case Isa::avx512:
#if defined(SEDPA_HAVE_AVX512)
      return &avx512::table();
#else
      return nullptr;
#endif
  }
  return nullptr;
}

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know the name.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool machine_runs(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 && has_f16c();
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") != 0 &&
             __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vnni") != 0 &&
             __builtin_cpu_supports("avx512bf16") != 0;
  }
  return false;
#else
  return isa == Isa::baseline;
#endif
}

const Kernels& kernels(Isa isa) {
  if (!machine_runs(isa)) fail("this machine cannot run the {} kernels", name(isa));
  const Kernels* found = compiled_kernels(isa);
  if (found == nullptr) fail("this program was built without the {} kernels", name(isa));
  return *found;
}

}  // namespace sedpa::cpu

namespace sedpa {

Isa best_isa() {
  for (const Isa isa : {Isa::avx512, Isa::avx2}) {
    if (cpu::machine_runs(isa) && cpu::compiled_kernels(isa) != nullptr) return isa;
  }
  return Isa::baseline;
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return "baseline";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

}  // namespace sedpa
