#pragma once
// d_x = W' d_out on all threads. Some rows of W at a time become f32 panels of W' (a panel of it is
// 16 columns of W), and the product is the forward's own: d_x += panels x tiles of d_out.
#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/tensor.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/train_ops.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cpu {

class LinearBackwardRunner {
 public:
  LinearBackwardRunner(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  /// Exactly what reserve allocates.
  [[nodiscard]] std::size_t scratch_bytes(const TrainPlan& plan) const;
  void reserve(const TrainPlan& plan);

  /// Throws Error when shapes disagree or exceed what was reserved.
  void run(const Linear& linear, Rows d_out, Rows d_x);

 private:
  /// Offsets of the scratch areas, in bytes.
  struct Layout {
    std::int64_t max_tokens = 0;
    std::int64_t max_cols = 0;
    std::int64_t max_rank = 0;
    std::size_t tiles = 0;   // f32 tiles of [max_tokens, kBlockRows]
    std::size_t rows = 0;    // f32 [threads, max_cols]
    std::size_t middle = 0;  // f32 [max_tokens, max_rank]
    std::size_t end = 0;
  };
  [[nodiscard]] Layout layout(const TrainPlan& plan) const;
  [[nodiscard]] float* area(std::size_t offset) const {
    return reinterpret_cast<float*>(scratch_.data() + offset);
  }
  void run_weight(const Weight& weight, Rows d_out, Rows d_x);
  void transpose(const Weight& weight, const WeightBand& band, std::int64_t first,
                 std::int64_t count);
  void multiply(std::int64_t count, Rows d_out, Rows d_x, bool add);

  ThreadPool& pool_;
  const Kernels& kernels_;
  Layout layout_;
  Pages scratch_;  // [panels of W': f32 [max_cols / 16][kBlockRows][16] | tiles | rows | middle]
};

}  // namespace sedpa::cpu
