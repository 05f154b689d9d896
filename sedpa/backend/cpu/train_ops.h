#pragma once
#include <memory>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::cpu {

/// `pool` must outlive the result.
[[nodiscard]] std::unique_ptr<TrainOps> make_train_ops(ThreadPool& pool, const Kernels& kernels);

}  // namespace sedpa::cpu
