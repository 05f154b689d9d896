#pragma once
// The one kernel that a step begins with: step state from the host's page-locked memory into the
// device's, and RoPE's angles.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "sedpa/attention/head_plan.h"

namespace sedpa::cuda {

/// What the host has written, as ints one after the other: ids [tokens], then for each window class
/// positions [capacity] and slots [tokens].
struct StepExpansion {
  const std::int32_t* staged = nullptr;
  std::int32_t past = 0;
  std::int32_t tokens = 0;
  std::int32_t capacity[kHeadClasses] = {};   // 0: full
  const double* inverse_frequency = nullptr;  // [half]
  double magnitude = 1;
  std::int32_t half = 0;  // rope_dim / 2

  std::int32_t* past_out = nullptr;
  std::int32_t* tokens_out = nullptr;
  std::int32_t* ids = nullptr;
  std::int32_t* positions[kHeadClasses] = {};
  std::int32_t* slots[kHeadClasses] = {};
  float* cosines = nullptr;  // [tokens, half]
  float* sines = nullptr;
};
void expand_step(const StepExpansion& step, cudaStream_t stream);

}  // namespace sedpa::cuda
