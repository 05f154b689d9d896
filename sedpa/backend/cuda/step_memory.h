#pragma once
// Step state in device memory, and the page-locked memory through which the host sets it.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/step_state.h"
#include "sedpa/ops/ops.h"

namespace sedpa::cuda {

class StepMemory {
 public:
  explicit StepMemory(cudaStream_t stream);
  ~StepMemory();
  StepMemory(const StepMemory&) = delete;
  StepMemory& operator=(const StepMemory&) = delete;

  /// Exactly what reserve allocates on the device.
  [[nodiscard]] static std::size_t scratch_bytes(const OpsPlan& plan);
  void reserve(const OpsPlan& plan);
  /// Asks the stream to set the state. Throws Error when the step is beyond what was reserved.
  void begin(const Step& step, const KvCache& cache);
  /// The same addresses until the next reserve.
  [[nodiscard]] const StepState& state() const { return state_; }

 private:
  struct Layout;
  [[nodiscard]] static Layout layout(const OpsPlan& plan);

  cudaStream_t stream_;
  StepState state_;
  std::int64_t max_tokens_ = 0;
  std::int64_t max_context_ = 0;
  std::int64_t capacity_[kHeadClasses] = {};   // slots of a window class; 0: full
  const double* inverse_frequency_ = nullptr;  // [rope_dim / 2]
  double magnitude_ = 1;
  DeviceMemory memory_;
  // Two, so that the host may write one while the device reads the other.
  PinnedMemory staging_[2];
  cudaEvent_t read_[2] = {};  // the device has read it
  int next_ = 0;
};

}  // namespace sedpa::cuda
