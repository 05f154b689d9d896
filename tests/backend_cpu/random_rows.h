#pragma once
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/dtype.h"
#include "sedpa/ops/weight.h"

namespace sedpa::test {

/// A stored matrix of random blocks: every code and every place of a scale occurs.
struct RandomMatrix {
  Dtype dtype = Dtype::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::byte> bytes;  // [rows, row_bytes]
  std::vector<float> numbers;    // [rows, cols], by format's dequantize_row

  [[nodiscard]] MatrixSource source() const;
};

RandomMatrix random_matrix(Dtype dtype, std::int64_t rows, std::int64_t cols, unsigned seed);
std::vector<float> random_numbers(std::size_t count, unsigned seed);

/// All types that matrices are stored in.
std::vector<Dtype> all_dtypes();
/// The instruction sets that can be tested here.
std::vector<Isa> usable_isas();

}  // namespace sedpa::test
