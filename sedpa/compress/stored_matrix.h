#pragma once
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "sedpa/core/dtype.h"
#include "sedpa/format/quant_blocks.h"
#include "sedpa/ops/weight.h"

namespace sedpa {

/// A matrix as it will stand in a file: its own bytes, or a part of a mapped file.
struct StoredMatrix {
  Dtype dtype = Dtype::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;

  /// numbers [rows, cols], rounded to `dtype`.
  [[nodiscard]] static StoredMatrix of(std::span<const float> numbers, std::int64_t rows,
                                       std::int64_t cols, Dtype dtype) {
    const std::int64_t stride = row_bytes(dtype, cols);
    auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(rows * stride));
    for (std::int64_t i = 0; i < rows; ++i) {
      quantize_row(dtype, numbers.data() + i * cols, cols, bytes->data() + i * stride);
    }
    return {dtype, rows, cols, *bytes, bytes};
  }
  [[nodiscard]] MatrixSource source() const {
    const std::int64_t stride = row_bytes(dtype, cols);
    return {.dtype = dtype,
            .rows = rows,
            .cols = cols,
            .read = [data = data, stride](std::int64_t first, std::int64_t count, std::byte* out) {
              std::memcpy(out, data.data() + first * stride,
                          static_cast<std::size_t>(count * stride));
            }};
  }
};

}  // namespace sedpa
