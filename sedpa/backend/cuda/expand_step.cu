#include "sedpa/backend/cuda/expand_step.h"
#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

__global__ void expand_kernel(StepExpansion s) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  if (first == 0) {
    *s.past_out = s.past;
    *s.tokens_out = s.tokens;
  }
  // The host's memory is far away: a thread asks for all that it copies before it stores any of it.
  const std::int32_t* staged_positions[kHeadClasses];
  const std::int32_t* staged_slots[kHeadClasses];
  std::int32_t most = s.tokens;
  const std::int32_t* from = s.staged + s.tokens;
#pragma unroll
  for (int c = 0; c < kHeadClasses; ++c) {
    staged_positions[c] = from;
    staged_slots[c] = from + s.capacity[c];
    if (s.capacity[c] > 0) from = staged_slots[c] + s.tokens;
    most = max(most, s.capacity[c]);
  }
  for (std::int64_t i = first; i < most; i += step) {
    const bool row = i < s.tokens;
    const std::int32_t id = row ? s.staged[i] : 0;
    std::int32_t position[kHeadClasses];
    std::int32_t slot[kHeadClasses];
#pragma unroll
    for (int c = 0; c < kHeadClasses; ++c) {
      position[c] = i < s.capacity[c] ? staged_positions[c][i] : 0;
      slot[c] = row && s.capacity[c] > 0 ? staged_slots[c][i] : 0;
    }
    if (row) s.ids[i] = id;
#pragma unroll
    for (int c = 0; c < kHeadClasses; ++c) {
      if (i < s.capacity[c]) s.positions[c][i] = position[c];
      if (row && s.capacity[c] > 0) s.slots[c][i] = slot[c];
    }
  }
  // Formed and reduced in f64: at position 10^6 an f32 angle is off by several hundredths.
  for (std::int64_t i = first; i < static_cast<std::int64_t>(s.tokens) * s.half; i += step) {
    const double angle = static_cast<double>(s.past + i / s.half) * s.inverse_frequency[i % s.half];
    double sine;
    double cosine;
    sincos(angle, &sine, &cosine);
    s.cosines[i] = static_cast<float>(cosine * s.magnitude);
    s.sines[i] = static_cast<float>(sine * s.magnitude);
  }
}

}  // namespace

void expand_step(const StepExpansion& step, cudaStream_t stream) {
  const std::int64_t angles = static_cast<std::int64_t>(step.tokens) * step.half;
  std::int64_t most = angles > step.tokens ? angles : step.tokens;
  for (const std::int32_t capacity : step.capacity) most = most > capacity ? most : capacity;
  constexpr unsigned kThreads = 128;
  const std::int64_t blocks = (most + kThreads - 1) / kThreads;
  launch({.grid = dim3(static_cast<unsigned>(blocks < 1024 ? (blocks < 1 ? 1 : blocks) : 1024)),
          .block = dim3(kThreads),
          .stream = stream},
         expand_kernel, step);
}

}  // namespace sedpa::cuda
