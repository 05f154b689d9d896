#pragma once
#include <memory>
#include <string>

#include "sedpa/ops/ops.h"

namespace sedpa {

/// Instruction sets that the CPU kernels are compiled for.
enum class Isa : std::uint8_t { baseline, avx2, avx512 };

/// How products are computed. `fast`: activations rounded to 15 bits against quantised weights.
/// `bf16`: besides, pairs of bf16 numbers inside attention of several tokens, where the machine has
/// such products: AMD's cores with AVX-512 are faster at them, Intel's are not. Reading a text in
/// chunks of another size is then another rounding. `f32`: every product of f32 numbers.
enum class Compute : std::uint8_t { fast, f32, bf16 };

struct CpuOptions {
  int threads = 0;  // 0: one for each usable processor
  Compute compute = Compute::fast;
  bool any_isa = true;  // false: exactly `isa`, which the machine must have
  Isa isa = Isa::baseline;
};

/// The best instruction set of this machine that the kernels were compiled for.
[[nodiscard]] Isa best_isa();
[[nodiscard]] const char* name(Isa isa);

/// Throws Error when options.isa cannot run here.
[[nodiscard]] std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options);

/// What the machine reaches, measured now: the ceilings that figures are divided by.
struct CpuCeilings {
  double read_bytes_per_second = 0;  // all threads, from memory, larger than any cache
  double int8_ops_per_second = 0;    // multiply and add count as two
  double bf16_flops_per_second = 0;  // the kernel's product of bf16 pairs, or f32 without it
  double f32_flops_per_second = 0;
};
[[nodiscard]] CpuCeilings measure_cpu_ceilings(int threads);

}  // namespace sedpa
