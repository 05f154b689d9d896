#pragma once
// Attention of the CPU backend: one operation over both head classes, any KV dtype and even head
// size. attention.cc decides who does what (plain C++); attention_kernels.* are the loops, compiled
// once per instruction set.
#include <cstddef>
#include <memory>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/tensor.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/ops.h"
#include "sedpa/ops/step.h"

namespace sedpa {

class CpuAttention {
 public:
  /// `pool` must outlive this. `isa` must be one that this machine can run. With Compute::fast,
  /// products of several tokens are of bf16 pairs where the kernels have them.
  CpuAttention(ThreadPool& pool, Isa isa, Compute compute);
  ~CpuAttention();
  CpuAttention(const CpuAttention&) = delete;
  CpuAttention& operator=(const CpuAttention&) = delete;

  /// Exactly the bytes that `reserve` allocates for a plan: the chunk's own keys and values as the
  /// cache would store them (the widest KV dtype is assumed), each thread's tiles, and the partial
  /// results of heads that several threads share. Small index tables of a step are not counted.
  [[nodiscard]] static std::size_t scratch_bytes(const OpsPlan& plan, int threads, Compute compute);
  /// Makes room for every step within the plan; throws Error when the shape is not valid.
  void reserve(const OpsPlan& plan);

  /// Step state: who does which piece, which slots are read, where commit will store. `cache` is at
  /// length step.past and outlives the step. Throws Error when the step exceeds the plan.
  void begin_step(const Step& step, const KvCache& cache);
  /// qkv [tokens, shape.qkv_cols], rotated; out [tokens, shape.out_cols]. See Ops::attention.
  void attention(Rows qkv, const LayerShape& shape, const KvLayer& layer, Rows out);
  /// Stores the chunk's keys and values in the slots that the plan says.
  void commit(Rows qkv, const LayerShape& shape, const KvLayer& layer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sedpa
