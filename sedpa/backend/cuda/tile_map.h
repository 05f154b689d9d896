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

}  // namespace sedpa::cuda
