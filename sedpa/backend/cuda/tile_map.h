#pragma once
// Tensor maps: how Hopper's copy engine is told where boxes of a tensor lie.
#include <cuda.h>

#include <cstdint>

#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

/// Whether the driver can make maps.
[[nodiscard]] bool has_tile_maps();

/// A tensor [heads, rows, dim] of 16-bit numbers in boxes of `box_rows` x 64 of them, swizzled by
/// 128 bytes; rows from `rows` on read as zeros. `head_rows` from one head to the next.
[[nodiscard]] CUtensorMap tile_map(KvDtype dtype, const void* data, int dim, std::int64_t rows,
                                   std::int64_t heads, std::int64_t head_rows, int box_rows);

/// The same tensor, dim being 64 or 128, in boxes of `box_rows` whole rows: each is one or two
/// lines of 64 numbers, one after the other as in memory, swizzled by 128 bytes. So a box is read
/// from its first byte to its last, which memory serves faster than halves of rows.
[[nodiscard]] CUtensorMap row_map(KvDtype dtype, const void* data, int dim, std::int64_t rows,
                                  std::int64_t heads, std::int64_t head_rows, int box_rows);

}  // namespace sedpa::cuda
