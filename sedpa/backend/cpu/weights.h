#pragma once
// Weights of the CPU backend: matrices as panels (panel_format.h), in large shared blocks of pages.
#include <cstddef>
#include <memory>
#include <span>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cpu {

/// Memory for what stays: a model has hundreds of matrices, many smaller than a huge page, so they
/// share mappings. Pages of a mapping that nobody asked for yet are address space, not memory.
class PageArena {
 public:
  struct Piece {
    std::byte* data = nullptr;  // zeros, 64-byte aligned
    std::shared_ptr<void> storage;
  };
  [[nodiscard]] Piece take(std::size_t bytes);

 private:
  std::shared_ptr<Pages> pages_;
  std::size_t used_ = 0;
};

/// The type that a matrix is stored in: its own, or f32 where every product is one of floats.
[[nodiscard]] Dtype stored_dtype(Dtype dtype, Compute compute);

/// Bytes of a band; throws Error when cols do not fit the type's blocks or the product overflows.
[[nodiscard]] std::size_t band_bytes(Dtype dtype, std::int64_t rows, std::int64_t cols,
                                     Compute compute);

/// Stacks the sources. Neighbours of one type become one band where that takes the same bytes;
/// WeightBand::dtype is what is stored.
[[nodiscard]] Weight make_weight(std::span<const MatrixSource> sources, Compute compute,
                                 ThreadPool& pool, PageArena& arena);

/// One row as numbers. out [cols]
void read_row(const Weight& weight, std::int64_t row, float* out);

}  // namespace sedpa::cpu
