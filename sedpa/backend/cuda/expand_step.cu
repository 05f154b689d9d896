#include "sedpa/backend/cuda/expand_step.h"
#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

__device__ void copy(const std::int32_t*& from, std::int32_t* to, std::int64_t count,
                     std::int64_t first, std::int64_t step) {
  for (std::int64_t i = first; i < count; i += step) to[i] = from[i];
  from += count;
}

__global__ void expand_kernel(StepExpansion s) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  if (first == 0) {
    *s.past_out = s.past;
    *s.tokens_out = s.tokens;
  }
  const std::int32_t* from = s.staged;
  copy(from, s.ids, s.tokens, first, step);
  for (int i = 0; i < kHeadClasses; ++i) {
    if (s.capacity[i] == 0) continue;
    copy(from, s.positions[i], s.capacity[i], first, step);
    copy(from, s.slots[i], s.tokens, first, step);
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
