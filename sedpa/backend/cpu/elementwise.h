#pragma once
// Operations on each row by itself, spread over the threads when there are many rows.
#include <cstddef>
#include <cstdint>
#include <span>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/tensor.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/ops.h"
#include "sedpa/ops/step.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cpu {

/// Cosines and sines of positions [first, first + count), times the magnitude, formed in f64.
/// cos, sin [count, rope.dim / 2]
void form_angles(ThreadPool& pool, const RopeSpec& rope, std::int64_t first, std::int64_t count,
                 float* cos, float* sin);

class ElementwiseRunner {
 public:
  ElementwiseRunner(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  /// Exactly what reserve allocates: the step's tokens and RoPE angles.
  [[nodiscard]] static std::size_t scratch_bytes(const OpsPlan& plan);
  /// Throws Error when the plan's RoPE does not fit its heads.
  void reserve(const OpsPlan& plan);
  /// Takes over the tokens, and forms the angles of their positions in f64.
  void begin_step(const Step& step);

  void embed(const Weight& table, Rows out);
  void rms_norm(Rows x, const Vector& weight, float eps, Rows out);
  void head_norm(Rows x, const Vector& weight, float eps, Rows out);
  void rope(Rows qkv, const LayerShape& shape);
  void swiglu(Rows gate_up, Rows out);

 private:
  ThreadPool& pool_;
  const Kernels& kernels_;
  RopeSpec rope_;
  AttentionShape attention_;
  std::int64_t max_tokens_ = 0;
  std::int64_t tokens_count_ = 0;  // of the step
  Pages scratch_;
  float* cos_ = nullptr;            // [max_tokens, rope.dim / 2]
  float* sin_ = nullptr;            // [max_tokens, rope.dim / 2]
  std::int32_t* tokens_ = nullptr;  // [max_tokens]
};

}  // namespace sedpa::cpu
