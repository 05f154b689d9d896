#pragma once
// Operations that stand alone: what fusion leaves over, and what the seam asks for one by one.
#include <cuda_runtime_api.h>

#include "sedpa/core/tensor.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cuda {

/// out = x / sqrt(mean(x^2) + epsilon) * weight over each run of `width` columns; the weight has
/// `width` numbers. width = cols: rms_norm. out may be x.
void norm(Rows x, const float* weight, std::int64_t width, float epsilon, Rows out,
          cudaStream_t stream);
/// out = silu(gate) * up for rows [gate | up].
void swiglu(Rows gate_up, Rows out, cudaStream_t stream);

inline constexpr int kArgmaxBlocks = 64;
/// What blocks leave for the last of them.
struct ArgmaxScratch {
  float values[kArgmaxBlocks];
  std::int32_t indices[kArgmaxBlocks];
  unsigned done;  // blocks; zero before and after
};
/// The index of the largest of `count` numbers, the lowest of equals; -1 when one is NaN or +inf,
/// or none is finite. `result` [1] may be page-locked memory of the host.
void argmax(const float* row, std::int64_t count, ArgmaxScratch* scratch, std::int32_t* result,
            cudaStream_t stream);

}  // namespace sedpa::cuda
