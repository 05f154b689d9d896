#pragma once
// Seeded inputs. Each kind of activation is there for what it can show.
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "sedpa/core/dtype.h"
#include "sedpa/ops/weight.h"
#include "tests/ops_conformance/reference.h"

namespace sedpa::conformance {

using Random = std::mt19937_64;

/// Numbers of a standard normal distribution (sum of uniform ones: the same on every platform).
std::vector<float> normal(Random& random, std::int64_t count, double scale = 1);

enum class Activations : std::uint8_t {
  natural,  // normal rows of many sizes, outliers, a zero row, zero blocks: as models make them
  lattice,  // integers up to 127 times a power of two in each block: no backend rounds them
  extreme,  // the largest of a block everywhere, of one sign: the largest integer sums
};
/// [rows, cols]
std::vector<float> activations(Random& random, Activations kind, std::int64_t rows,
                               std::int64_t cols);

/// A stored matrix and what its numbers mean.
struct StoredMatrix {
  Dtype dtype = Dtype::f32;
  std::vector<std::byte> bytes;  // [rows, row_bytes(cols)]
  Matrix values;                 // [rows, cols]
  Matrix k_scale_radius;         // how far a number moves when the products of two
                                 // scales are rounded to f16; no rows for other types
  [[nodiscard]] MatrixSource source() const;
};

/// Blocks of random bytes with scales of either sign that make numbers of about 1/8. `extreme`: all
/// codes at the end of their range, scales all of one sign.
StoredMatrix stored_matrix(Random& random, Dtype dtype, std::int64_t rows, std::int64_t cols,
                           bool extreme = false);

}  // namespace sedpa::conformance
