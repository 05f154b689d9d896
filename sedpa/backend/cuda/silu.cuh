#pragma once

namespace sedpa::cuda {

/// To a few ulp; exp may overflow, which gives 0.
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + expf(-x)); }

}  // namespace sedpa::cuda
