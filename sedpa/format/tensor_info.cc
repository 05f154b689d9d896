#include "sedpa/format/tensor_info.h"

#include <fmt/ranges.h>

namespace sedpa {

std::int64_t TensorInfo::rows() const {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::string TensorInfo::shape_text() const { return sedpa::shape_text(shape); }

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace sedpa
