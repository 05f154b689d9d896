#pragma once
// What changes each step, in device memory: kernels read it there, so that one captured graph
// serves all lengths. Addresses are fixed by `reserve`. A plain struct, passed to kernels by value.
#include <cstdint>

#include "sedpa/attention/head_plan.h"

namespace sedpa::cuda {

struct StepState {
  const std::int32_t* past = nullptr;    // [1] tokens committed before: position of the first row
  const std::int32_t* tokens = nullptr;  // [1] rows of the chunk
  const std::int32_t* ids = nullptr;     // [tokens]
  const float* cosines = nullptr;        // [tokens, rope_dim / 2], times RopeSpec::magnitude
  const float* sines = nullptr;          // [tokens, rope_dim / 2]
  std::int32_t rope_dim = 0;             // numbers of a head that rotate; even
  bool rope_neighbours = false;          // pairs (2i, 2i+1); else (i, i + rope_dim / 2)
  /// Of a window class, before the chunk: the position that each slot holds, -1 where no query of
  /// the chunk or after it can see what is there. [capacity]; null for a full class, whose slot =
  /// position, for all positions below `past`.
  const std::int32_t* positions[kHeadClasses] = {};
  /// Of a window class: the slot that each row of the chunk is committed to, -1: none. [tokens];
  /// null for a full class, where row r goes to slot past + r.
  const std::int32_t* slots[kHeadClasses] = {};
};

}  // namespace sedpa::cuda
