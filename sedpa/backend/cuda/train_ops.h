#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

#include "sedpa/ops/train_ops.h"

namespace sedpa::cuda {

/// On the stream of the Ops that gives it. `launch_pending` launches what a pass has written down
/// so far, for those who read in the middle of it.
[[nodiscard]] std::unique_ptr<TrainOps> make_train_ops(cudaStream_t stream,
                                                       std::function<void()> launch_pending);

}  // namespace sedpa::cuda
