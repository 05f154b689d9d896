#pragma once
// Training's operations on each row by itself: gradients of norms, SwiGLU and RoPE, gates, loss.
#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/tensor.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::cpu {

class RowBackward {
 public:
  RowBackward(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  /// Exactly what reserve allocates: the angles of all positions.
  [[nodiscard]] static std::size_t scratch_bytes(const TrainPlan& plan);
  void reserve(const TrainPlan& plan);

  void store(Rows from, StoredRows to);
  /// `forward` false: turned back.
  void rope(Rows qkv, std::int64_t first, bool forward);
  void mix_heads(Rows gates, StoredRows full, Rows windowed, Rows out);
  void mix_heads_backward(Rows gates, StoredRows full, Rows windowed, Rows d_out, Rows d_gates,
                          Rows d_windowed);
  void norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows residual, Rows d_x);
  void swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up);
  static void mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x);

 private:
  ThreadPool& pool_;
  const Kernels& kernels_;
  RopeSpec rope_;
  AttentionShape attention_;
  std::int64_t max_context_ = 0;
  Pages scratch_;
  float* cos_ = nullptr;        // [max_context, rope.dim / 2]
  float* sin_ = nullptr;        // the same
  float* minus_sin_ = nullptr;  // the same
};

}  // namespace sedpa::cpu
