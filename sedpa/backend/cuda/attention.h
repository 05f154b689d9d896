#pragma once
// Both head classes of a layer in one operation, on the device.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/step_state.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/ops.h"

namespace sedpa::cuda {

class DecodeProgram;

/// What happens to a layer's qkv rows, in this order: QK norm, RoPE, attention, commit; those parts
/// that are asked for. Without `attend` or `commit` it is the part alone, as the seam's single
/// operations ask for it; rope alone then writes its result into qkv, else qkv may be left as it
/// was.
struct AttentionJob {
  Rows qkv;                           // [tokens, qkv_cols], f32
  const LayerShape* shape = nullptr;  // where heads stand in the rows
  const KvLayer* cache = nullptr;     // blocks in device memory
  Rows out;                           // [tokens, out_cols]
  const float* query_norm = nullptr;  // [head_dim]; null: no norm
  const float* key_norm = nullptr;
  float norm_epsilon = 0;
  bool rotate = false;
  bool attend = false;
  bool commit = false;
};

class AttentionRunner {
 public:
  AttentionRunner(const DeviceTraits& device, cudaStream_t stream);
  ~AttentionRunner();

  /// Exactly what reserve allocates on the device. Throws Error for shapes beyond what kernels do.
  [[nodiscard]] std::size_t scratch_bytes(const OpsPlan& plan) const;
  void reserve(const OpsPlan& plan);
  /// The step that later jobs belong to. `past` and `tokens` are also in `state`; jobs of one token
  /// use those alone, so that their launches can be captured and replayed at other lengths.
  void begin_step(const StepState& state, const KvCache& cache, std::int64_t past,
                  std::int64_t tokens);
  void run(const AttentionJob& job);
  /// Jobs of one token become phases of `program` where it takes them, until it is null again.
  void set_program(DecodeProgram* program);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sedpa::cuda
