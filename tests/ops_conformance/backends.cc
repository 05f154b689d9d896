#include "tests/ops_conformance/backends.h"

#include <fmt/format.h>

#include "sedpa/backend/cpu/cpu_ops.h"
#ifdef SEDPA_HAVE_CUDA
#include "sedpa/backend/cuda/cuda_ops.h"
#endif

namespace sedpa::conformance {
namespace {

bool is_plain(Dtype dtype) { return block_size(dtype) == 1; }

void add_cpu(std::vector<Backend>& list) {
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (isa > best_isa()) continue;
    // One thread, two, three: an instruction set has no say in how work is split, so each can
    // stand for a thread count too.
    const int threads = 1 + static_cast<int>(isa);
    const bool has_bf16 = isa == Isa::avx512;
    struct Way {
      const char* name;
      Compute compute;
    };
    std::vector<Way> ways = {{"fast", Compute::fast}, {"f32", Compute::f32}};
    if (has_bf16) ways.push_back({"bf16", Compute::bf16});
    for (const Way& way : ways) {
      const bool fast = way.compute != Compute::f32;
      Backend backend;
      backend.name = fmt::format("cpu {} {} {} threads", name(isa), way.name, threads);
      backend.make = [=] {
        return make_cpu_ops(
            {.threads = threads, .compute = way.compute, .any_isa = false, .isa = isa});
      };
      backend.linear_rounding = [=](Dtype weights) {
        if (!fast) return Rounding::none;
        if (weights == Dtype::bf16) return has_bf16 ? Rounding::bf16 : Rounding::none;
        return is_plain(weights) ? Rounding::none : Rounding::int15;
      };
      backend.attention_rounding = way.compute == Compute::bf16 ? Rounding::bf16 : Rounding::none;
      backend.rounds_k_scales = fast;
      list.push_back(std::move(backend));
    }
  }
}

#ifdef SEDPA_HAVE_CUDA
void add_cuda(std::vector<Backend>& list) {
  if (cuda_devices().empty()) return;
  Backend backend;
  backend.name = "cuda";
  backend.make = [] { return make_cuda_ops({}); };
  // One row is a product in f32; more go through the tensor cores, which take 16-bit numbers.
  backend.linear_rounding = [](Dtype weights) {
    return weights == Dtype::f32 ? Rounding::none : Rounding::bf16;
  };
  // Quantised weights become bf16 for the tensor cores.
  backend.weight_rounding = [](Dtype weights) {
    return is_plain(weights) ? Rounding::none : Rounding::bf16;
  };
  backend.attention_rounding = Rounding::bf16;
  backend.training_rounding = backend.linear_rounding;
  list.push_back(std::move(backend));
}
#endif

}  // namespace

const std::vector<Backend>& backends() {
  static const std::vector<Backend> list = [] {
    std::vector<Backend> all;
    add_cpu(all);
#ifdef SEDPA_HAVE_CUDA
    add_cuda(all);
#endif
    return all;
  }();
  return list;
}

}  // namespace sedpa::conformance
