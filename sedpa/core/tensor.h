#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace sedpa {

/// A view of f32 rows in a backend's memory: `rows` x `cols`, `stride` numbers from row to row.
/// Activations are always f32; stored matrices are ops/weight.h's business.
struct Rows {
  float* data = nullptr;  // [rows, stride]
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  [[nodiscard]] float* row(std::int64_t i) const { return data + i * stride; }
  /// Columns [begin, begin + count) of the same rows.
  [[nodiscard]] Rows columns(std::int64_t begin, std::int64_t count) const {
    return {data + begin, rows, count, stride};
  }
  /// Rows [begin, begin + count).
  [[nodiscard]] Rows range(std::int64_t begin, std::int64_t count) const {
    return {data + begin * stride, count, cols, stride};
  }

  friend bool operator==(const Rows&, const Rows&) = default;
};

}  // namespace sedpa
