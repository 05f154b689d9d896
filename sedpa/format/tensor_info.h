#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sedpa/core/dtype.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {

/// A tensor as it lies in a model file. All sizes were checked against the file when it was
/// opened: `data` holds exactly rows() rows of row_bytes(dtype, cols()), with no padding.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;  // outermost first, so a matrix is [rows, cols]; each >= 1
  std::span<const std::byte> data;
  const MappedFile* file = nullptr;  // where `data` lies, for MappedFile::drop
  std::uint64_t offset = 0;          // of `data` from the start of the file

  /// Numbers in a row: the innermost dimension; 1 for a scalar.
  [[nodiscard]] std::int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  /// The product of all other dimensions.
  [[nodiscard]] std::int64_t rows() const;
  [[nodiscard]] std::int64_t count() const { return rows() * cols(); }
  /// "[576, 1536]", for messages.
  [[nodiscard]] std::string shape_text() const;
};

/// "[576, 1536]", for messages.
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace sedpa
