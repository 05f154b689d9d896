#pragma once
// How far a backend may be from the reference: derived from what it is allowed to round and from
// how many numbers meet in a sum, never fitted to what was seen.
//
// Notation: u = 2^-24, the unit roundoff of f32. A sum of n products in f32, in any order, with or
// without FMA, is off by at most n u sum|terms| (Higham, Accuracy and Stability of Numerical
// Algorithms, section 3.1). That is met only when all roundings conspire; when they are taken as
// independent with zero mean, it is kLambda sqrt(n) u sum|terms| with probability of at least
// 1 - 2 exp(-kLambda^2 / 2) (Higham and Mary 2019, A new approach to probabilistic rounding error
// analysis, theorem 2.8). With kLambda = 7 that fails for one number in 10^10; the table looks at
// about 10^7. The smaller of the two holds.
//
// Rounding activations: a number x rounded to bf16 moves by at most 2^-8 |x|, one rounded to a grid
// of step d by d / 2, independently with zero mean. By Hoeffding's inequality a sum of w_k x_k then
// moves by more than kLambda sqrt(sum (w_k r_k)^2), r_k the largest move of x_k, with the same
// small probability. Numbers that stand on the grid already do not move (r_k = 0): inputs made of
// such numbers hold the fast paths to f32 bounds.
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/core/dtype.h"
#include "tests/ops_conformance/backends.h"
#include "tests/ops_conformance/reference.h"

namespace sedpa::conformance {

inline constexpr double kUnit = 0x1p-24;  // of f32
inline constexpr double kBf16Unit = 0x1p-8;
inline constexpr double kSmallest = 0x1p-126;  // normal f32 number
inline constexpr double kLambda = 7;

/// Error of an f32 sum of n products, relative to the sum of their absolute values; a few single
/// roundings (of scales, of the result) are counted in.
double f32_growth(double n);

/// Largest move of each number of a row of activations under `rounding`.
std::vector<double> rounding_radius(Rounding rounding, std::span<const double> row);

/// Bounds of reference::linear. `a_radius` and `b_radius` (may be empty) say how far the backend's
/// weights may be from a and b.
struct LinearBoundInput {
  const Matrix& a;
  const Matrix& b;  // no rows: not low rank
  const Matrix& x;
  std::span<const float> bias;
  const Matrix& residual;
  Rounding a_rounding;  // of what `a` is multiplied with
  Rounding b_rounding;
  const Matrix& a_radius;
  const Matrix& b_radius;
  Rounding a_weight_rounding = Rounding::none;  // of the numbers of `a`, each by itself
  Rounding b_weight_rounding = Rounding::none;
};
Matrix linear_bound(const LinearBoundInput& in);

/// Bound of the result of rms_norm and head_norm, relative to the result. The sum of squares of
/// `width` numbers is off by growth(width), its root by half of that; division, root, eps and two
/// products round once each.
double norm_bound(std::int64_t width);

/// Relative to magnitude * (|first| + |second|): cos and sin stored as f32, two products and a sum.
inline constexpr double kRopeBound = 4 * kUnit;

/// Relative to the result. exp to 3 ulp (6 u), a sum, a division, a product, each u; the argument
/// of exp is exact. 1 / (1 + exp) may stop at the smallest normal f32 numbers: kSwigluFloor
/// |gate up|.
inline constexpr double kSwigluBound = 10 * kUnit;
inline constexpr double kSwigluFloor = 0x1p-124;

/// Bound of every number of reference::attention's result, for one query.
std::vector<double> attention_bound(Rounding rounding, std::span<const double> query, double scale,
                                    const reference::HeadHistory& history,
                                    std::span<const std::int64_t> positions,
                                    std::span<const double> weights, std::span<const double> out);

/// How far a stored number of a KV row may be from what was committed, for each of the row's
/// numbers.
std::vector<double> kv_bound(KvDtype dtype, std::span<const double> row);

}  // namespace sedpa::conformance
