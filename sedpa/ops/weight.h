#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "sedpa/core/dtype.h"

namespace sedpa {

/// Rows of a stored matrix, as a checkpoint gives them: `read(row, count, out)` writes `count` rows
/// in `dtype`'s encoding, row_bytes(dtype, cols) each. A backend reads every row once, in order.
struct MatrixSource {
  Dtype dtype = Dtype::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::function<void(std::int64_t row, std::int64_t count, std::byte* out)> read;
};

/// Rows of one encoding inside a Weight. How they lie in memory is the backend's business.
struct WeightBand {
  Dtype dtype = Dtype::f32;    // as stored in the checkpoint
  std::int64_t first_row = 0;  // of the Weight
  std::int64_t rows = 0;
  std::byte* data = nullptr;  // the backend's layout, in the backend's memory
};

/// A matrix W [rows, cols] in a backend's memory, for y = W x. Projections that share an input are
/// stacked into one Weight; each keeps its own dtype as a band.
struct Weight {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<WeightBand> bands;
  std::size_t bytes = 0;  // allocated for all bands
  std::shared_ptr<void> storage;

  [[nodiscard]] bool empty() const { return rows == 0; }
};

/// f32 numbers in a backend's memory: norm weights, biases.
struct Vector {
  const float* data = nullptr;  // [size]
  std::int64_t size = 0;
  std::size_t bytes = 0;
  std::shared_ptr<void> storage;

  [[nodiscard]] bool empty() const { return size == 0; }
};

/// y = a x + bias, or y = a (b x) + bias when the matrix is stored as two low-rank factors.
struct Linear {
  Weight a;                 // [out, in], or [out, rank]
  std::optional<Weight> b;  // [rank, in]
  Vector bias;              // [out], may be empty

  [[nodiscard]] std::int64_t out_features() const { return a.rows; }
  [[nodiscard]] std::int64_t in_features() const { return b ? b->cols : a.cols; }
  /// Numbers of its matrices: multiplications that a row of input takes.
  [[nodiscard]] std::int64_t matrix_numbers() const {
    return a.rows * a.cols + (b ? b->rows * b->cols : 0);
  }
  [[nodiscard]] std::size_t bytes() const { return a.bytes + (b ? b->bytes : 0) + bias.bytes; }
};

}  // namespace sedpa
