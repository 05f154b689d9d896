#pragma once
// d_x = W' d_out by cuBLASLt. Some rows of W at a time become numbers (bf16, or f32 as they are),
// and so do the columns of d_out that meet them: d_x += those columns x those rows. Gradients are
// far too small for f16, so that its weights are rounded to bf16 as well.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/gemm.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::cuda {

class LinearBackward {
 public:
  explicit LinearBackward(cudaStream_t stream) : stream_(stream) {}

  /// Exactly what reserve allocates.
  [[nodiscard]] static std::size_t scratch_bytes(const TrainPlan& plan);
  void reserve(const TrainPlan& plan);

  /// Throws Error when shapes disagree or exceed what was reserved.
  void run(const Linear& linear, Rows d_out, Rows d_x);

 private:
  /// Scratch in bytes, one part after the other.
  struct Layout {
    std::int64_t max_rows = 0;
    std::int64_t max_cols = 0;
    std::int64_t max_rank = 0;
    std::int64_t block_rows = 0;
    std::int64_t slab = 0;    // decoded rows of W
    std::int64_t packed = 0;  // columns of d_out: [block_rows, packed_cols(max_cols)], f32 at most
    std::int64_t middle = 0;  // between the factors of a low-rank linear: f32 [max_rows, max_rank]
    std::int64_t workspace = 0;  // of cuBLASLt

    [[nodiscard]] std::int64_t bytes() const { return slab + packed + middle + workspace; }
  };
  [[nodiscard]] static Layout layout_for(const TrainPlan& plan);
  [[nodiscard]] std::byte* slab() const { return scratch_.data(); }
  [[nodiscard]] std::byte* packed() const { return slab() + layout_.slab; }
  [[nodiscard]] std::byte* middle() const { return packed() + layout_.packed; }
  void multiply(const Weight& weight, Rows d_out, Rows d_x);
  void multiply_slab(const WeightBand& band, std::int64_t first, std::int64_t count, Rows d_out,
                     Rows d_x, bool add);

  cudaStream_t stream_;
  Gemm gemm_;
  Layout layout_;
  DeviceMemory scratch_;
};

}  // namespace sedpa::cuda
