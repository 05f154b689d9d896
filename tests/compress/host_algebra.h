#pragma once
#include <memory>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/compress/linear_algebra.h"

namespace sedpa::test {

/// That of the CPU backend.
inline const Algebra& host_algebra() {
  static const std::unique_ptr<Ops> ops = make_cpu_ops({});
  static const Algebra algebra(*ops);
  return algebra;
}

}  // namespace sedpa::test
