#pragma once
#include <cuda_runtime_api.h>

#include <memory>

#include "sedpa/ops/dense_ops.h"

namespace sedpa::cuda {

/// On the stream of the Ops that gives it: cuBLAS and cuSOLVER, which are opened on first use.
[[nodiscard]] std::unique_ptr<DenseOps> make_dense_ops(cudaStream_t stream);

}  // namespace sedpa::cuda
