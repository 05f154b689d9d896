#pragma once
// One row through rows of a matrix: out[i] = W[i] . norm(x), reading W once, at the memory's pace.
// gemv_kernel.cuh says how.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/weight_format.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

/// Rows of one type that lie one after the other. A plain struct, passed to kernels by value.
struct GemvJob {
  const std::byte* rows = nullptr;     // [outputs], of a weight's layout
  const std::byte* up_rows = nullptr;  // [outputs]; not null: out = silu(rows . x) * (up_rows . x)
  std::int64_t cols = 0;
  std::int64_t outputs = 0;
  const float* x = nullptr;            // [cols]
  const float* norm_weight = nullptr;  // [cols]; null: no norm
  float epsilon = 0;
  const float* bias = nullptr;      // [outputs], null: none
  const float* up_bias = nullptr;   // [outputs], null: none
  const float* gate = nullptr;      // [outputs]; not null: out = silu(gate) * product. May be out
  const float* residual = nullptr;  // [outputs]; not null: out = residual + product. May be out
  float* out = nullptr;             // [outputs]
};

/// Lets the kernels have the shared memory they need; once for each device, which is current.
void prepare_gemv(const DeviceTraits& device);
/// CTAs of a job's kernel.
[[nodiscard]] std::int32_t gemv_ctas(const DeviceTraits& device, const GemvJob& job);
void gemv(const DeviceTraits& device, cudaStream_t stream, Dtype dtype, const GemvJob& job);

}  // namespace sedpa::cuda
