#pragma once
#include <cstdint>
#include <random>

#include "sedpa/compress/linear_algebra.h"

namespace sedpa::test {

/// Numbers in [-1, 1).
inline Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix m(rows, cols);
  std::mt19937_64 random(seed);
  for (double& x : m.numbers) x = static_cast<double>(random() >> 11) * 0x1p-52 - 1;
  return m;
}

}  // namespace sedpa::test
