#pragma once
// Training's attention under a window of first and last tokens, forward and backward, in f32: it
// meets some hundred keys a row, so that tensor cores have little to save, and gradients keep the
// precision of the activations.
#include <cuda_runtime_api.h>

#include <cstddef>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/window_kernels.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::cuda {

class WindowAttention {
 public:
  explicit WindowAttention(cudaStream_t stream) : stream_(stream) {}

  /// Exactly what reserve allocates.
  [[nodiscard]] static std::size_t scratch_bytes(const TrainPlan& plan);
  /// Throws Error when the heads are larger than kernels take.
  void reserve(const TrainPlan& plan);

  /// As TrainOps. Throw Error when there are more rows than reserved.
  void forward(Rows qkv, const HeadClass& window, Rows out, Rows lse);
  void backward(Rows qkv, const HeadClass& window, Rows out, Rows lse, Rows d_out, Rows d_qkv);

 private:
  [[nodiscard]] WindowParams params(Rows qkv, const HeadClass& window, Rows out, Rows lse) const;

  cudaStream_t stream_;
  AttentionShape shape_;
  std::int64_t max_rows_ = 0;
  DeviceMemory scratch_;
  float* delta_ = nullptr;  // [max_rows, query_heads]
  // Shares of the sinks' gradients, [runs of rows][kv_heads][sinks][key, value][head_dim]:
  // runs * sinks <= max_rows.
  float* sink_parts_ = nullptr;
};

}  // namespace sedpa::cuda
