#pragma once
// Kernels around the dense algebra of compression (dense_ops.cc): between f32 rows and f64
// matrices, and what cuSOLVER leaves to its callers. In full stream order.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "sedpa/core/tensor.h"

namespace sedpa::cuda {

/// Numbers [rows, cols] in device memory, `stride` numbers from row to row.
struct DenseView {
  double* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
};

/// to = from. Same shape.
void widen(Rows from, DenseView to, cudaStream_t stream);
/// to = from, rounded to nearest even. Same shape.
void narrow(DenseView from, Rows to, cudaStream_t stream);
/// Column j of `to` = row n - 1 - j of `from`. Both [n, n]; they do not overlap.
void turn_backwards(DenseView from, DenseView to, cudaStream_t stream);
/// *found, in device memory, = 1 when a number is not finite, else as it was.
void find_not_finite(DenseView m, int* found, cudaStream_t stream);

}  // namespace sedpa::cuda
