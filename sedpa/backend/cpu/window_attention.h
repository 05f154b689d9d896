#pragma once
// Attention of whole sequences under a window, forward and backward, without a cache: linear in the
// length. Blocks of query rows meet tiles of keys; the scores of a pair are [keys][rows], so that
// the softmax of 16 rows is one vector operation.
#include <cstddef>
#include <cstdint>

#include "sedpa/attention/head_plan.h"
#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/tensor.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::cpu {

class WindowAttention {
 public:
  WindowAttention(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  /// Exactly what reserve allocates: each thread's tiles.
  [[nodiscard]] std::size_t scratch_bytes(const TrainPlan& plan) const;
  void reserve(const TrainPlan& plan);

  /// TrainOps::window_attention and its backward. Throw Error when `window` has a middle or is
  /// full.
  void forward(Rows qkv, const HeadClass& window, Rows out, Rows lse);
  void backward(Rows qkv, const HeadClass& window, Rows out, Rows lse, Rows d_out, Rows d_qkv);

 private:
  struct Job;
  struct Scratch;
  struct RowBlock;

  [[nodiscard]] Scratch scratch(int thread) const;
  void score(const Job& job, const RowBlock& block, std::int64_t key, std::int64_t keys,
             const Scratch& at) const;
  void forward_block(const Job& job, const RowBlock& block, const Scratch& at) const;
  void prepare_backward(const Job& job, const RowBlock& block, const Scratch& at) const;
  void weigh_backward(const Job& job, const RowBlock& block, std::int64_t key, std::int64_t keys,
                      const Scratch& at) const;
  void backward_queries(const Job& job, const RowBlock& block, const Scratch& at) const;
  void backward_keys(const Job& job, std::int32_t kv_head, std::int64_t key, std::int64_t keys,
                     const Scratch& at) const;

  ThreadPool& pool_;
  const Kernels& kernels_;
  AttentionShape shape_;
  Pages scratch_;
};

}  // namespace sedpa::cpu
