#pragma once
#include <memory>

#include "sedpa/ops/dense_ops.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// Dense algebra by OpenBLAS and LAPACK, for a backend whose memory is the host's. `ops` must
/// outlive it.
[[nodiscard]] std::unique_ptr<DenseOps> make_lapack_ops(Ops& ops);

}  // namespace sedpa
