#pragma once
// Thin values: the directions of each KV head's values that are kept, and the output matrix that
// reads them.
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/compress/linear_algebra.h"

namespace sedpa {

/// What a text shows of the heads' outputs o [query_heads * head_dim], sums over its tokens.
struct HeadOutputs {
  Matrix own;    // o o'
  Matrix cross;  // t o', t what the heads' outputs are to stand for: o itself, or the original's
  std::int64_t tokens = 0;
};

struct ValueCut {
  std::vector<Matrix> directions;  // [kv_heads], each [width, head_dim]: rows orthonormal
  Matrix output;                   // [rows, group * widths together]
};

/// Rounds of alternation: more gain little.
inline constexpr int kValueRounds = 3;

/// Least squares of y = W t by W' blockdiag(R) o: R the directions of each KV head, the same for
/// all queries of its group, W' [rows, group * widths together] for all heads at once. R begins at
/// each head's best for W by itself (of all oblique projections: eigenvectors of M^1/2 S M^1/2, M =
/// the sum of its queries' W_h' W_h, S their covariance); then W' is fitted given R, and in each
/// round R given W' (conjugate gradients, head after head) and W' again. W [rows, query_heads *
/// head_dim]; widths [kv_heads]. Where the text shows little, W' stays near what makes the best of
/// each head alone; where it shows nothing, W counts by itself.
[[nodiscard]] ValueCut cut_values(const Algebra& algebra, const Matrix& w,
                                  const HeadOutputs& outputs, std::span<const std::int32_t> widths,
                                  std::int64_t group, int rounds = kValueRounds);

/// Rows of a value projection [kv_heads * head_dim, cols] taken onto the directions.
[[nodiscard]] Matrix project_values(const Matrix& whole, std::span<const Matrix> directions);

}  // namespace sedpa
