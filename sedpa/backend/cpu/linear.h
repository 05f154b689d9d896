#pragma once
// y = W x on all threads: inputs are packed into tiles, then threads take ranges of panels.
#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/tensor.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/ops.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cpu {

class LinearRunner {
 public:
  LinearRunner(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  /// Exactly what reserve allocates.
  [[nodiscard]] std::size_t scratch_bytes(const OpsPlan& plan) const;
  void reserve(const OpsPlan& plan);

  /// out = linear(x) (+ residual, when it has data). Throws Error when shapes disagree or exceed
  /// what was reserved.
  void run(const Linear& linear, Rows x, Rows residual, Rows out);

 private:
  /// Sizes of the scratch areas for a plan.
  struct Layout {
    std::int64_t max_cols = 0;  // of an input
    std::int64_t max_rank = 0;  // of the row between two factors
    std::int64_t max_tokens = 0;
    std::int64_t block_tokens = 0;  // packed at once, a multiple of the tile
    std::size_t token_bytes = 0;    // of one packed token, all forms
    std::size_t input_bytes = 0;    // of the packed inputs
    std::size_t middle_bytes = 0;   // f32 [max_tokens, max_rank]
  };
  [[nodiscard]] Layout layout(const OpsPlan& plan) const;
  /// Where the tiles of one form stand.
  struct Tiles {
    std::byte* data = nullptr;
    std::int64_t tile_bytes = 0;
  };
  struct Inputs {
    Tiles forms[kInputForms];
  };
  struct Product;

  [[nodiscard]] Inputs place_inputs(const Weight& weight, std::byte* area,
                                    std::int64_t tokens) const;
  void pack(const Inputs& inputs, Rows x, std::int64_t tile) const;
  void multiply(const Product& product, std::int64_t panel_begin, std::int64_t panel_end,
                std::int64_t token_begin, std::int64_t token_end) const;
  void run_weight(const Weight& weight, const float* bias, Rows x, Rows residual, Rows out);
  void run_block(const Weight& weight, const float* bias, Rows x, Rows residual, Rows out);

  ThreadPool& pool_;
  const Kernels& kernels_;
  Layout layout_;
  Pages scratch_;  // [packed inputs | middle rows]
};

}  // namespace sedpa::cpu
