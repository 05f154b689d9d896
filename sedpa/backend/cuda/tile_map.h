#pragma once
// Tensor maps: how Hopper's copy engine is told where boxes of a tensor lie.
#include <cuda.h>

#include <cstdint>

#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

/// Whether the driver can make maps.
[[nodiscard]] bool has_tile_maps();

/// A tensor [heads, rows, dim] of 16-bit numbers in boxes of `box_rows` x 64 of them, swizzled by
/// 128 bytes; rows from `rows` on and numbers from `dim` on read as zeros. `head_rows` from one
/// head to the next. Rows begin at multiples of 16 bytes.
[[nodiscard]] CUtensorMap tile_map(KvDtype dtype, const void* data, int dim, std::int64_t rows,
                                   std::int64_t heads, std::int64_t head_rows, int box_rows);

/// Numbers of a line of a row of row_map. Lines are what can be swizzled, by their own length, so
/// that the tensor cores find eight rows in all banks; rows of an odd multiple of 16 numbers lie in
/// the banks almost as well by themselves.
constexpr int row_line(int dim) { return dim % 64 == 0 ? 64 : dim % 32 == 0 ? 32 : dim; }
/// The bits of an address that the swizzle changes; the bits are those three places up.
constexpr std::uint32_t row_swizzle(int dim) {
  return dim % 32 == 0 ? static_cast<std::uint32_t>(2 * row_line(dim) - 16) : 0;
}

/// The same tensor, dim being a multiple of 16 up to 128, in boxes of `box_rows` whole rows, line
/// after line as in memory. So a box is read from its first byte to its last, which memory serves
/// faster than halves of rows.
[[nodiscard]] CUtensorMap row_map(KvDtype dtype, const void* data, int dim, std::int64_t rows,
                                  std::int64_t heads, std::int64_t head_rows, int box_rows);

}  // namespace sedpa::cuda
