#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

namespace sedpa::cuda {

struct MeasuredCeilings {
  double read_bytes_per_second = 0;
  double copy_bytes_per_second = 0;  // read and written
  double bf16_flops_per_second = 0;  // 0: cuBLASLt could not
};

/// Memory that measuring takes where so much is free; 0: too little is.
[[nodiscard]] std::size_t ceilings_bytes(std::size_t free_bytes);
/// Medians of several runs each. Overwrites `memory`, ceilings_bytes long.
[[nodiscard]] MeasuredCeilings measure_ceilings(std::byte* memory, std::size_t bytes,
                                                int multiprocessors, cudaStream_t stream);

}  // namespace sedpa::cuda
