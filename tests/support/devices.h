#pragma once
#include <string>
#include <vector>

#ifdef SEDPA_HAVE_CUDA
#include "sedpa/backend/cuda/cuda_ops.h"
#endif

namespace sedpa::test {

/// Names of what can run a model here: the CPU, and a GPU where there is one.
inline std::vector<std::string> devices() {
#ifdef SEDPA_HAVE_CUDA
  if (!cuda_devices().empty()) return {"cpu", "cuda"};
#endif
  return {"cpu"};
}

}  // namespace sedpa::test
