#pragma once
// Thin keys: which RoPE planes of a KV head are kept, and what the kept ones make good.
//
// A query q and a key k meet in head_dim / 2 planes, pairs of numbers that RoPE turns together.
// Plane p adds Re(conj(q_p) k_p) to their score. Dropping plane p takes this away; a complex number
// 1 + c_p that the queries' plane p is multiplied by (it commutes with RoPE, so it is a part of the
// query projection) adds c_p's share of Re(conj(q_p) k_p) and Im(conj(q_p) k_p). All errors of a
// score are thus linear in head_dim real coefficients, and as a softmax does not see what all keys
// of its row have in common, what counts is their variance about the row's mean, with attention's
// own weights. Summed over rows of a text that is one quadratic form for each query head.
#include <complex>
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/compress/linear_algebra.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/ops/step.h"

namespace sedpa {

/// The rows of plane p in a head of `dim` numbers.
struct PlaneRows {
  std::int64_t first = 0;
  std::int64_t second = 0;
};
[[nodiscard]] constexpr PlaneRows plane_rows(RopeStyle style, std::int64_t dim, std::int64_t p) {
  return style == RopeStyle::neighbours ? PlaneRows{2 * p, 2 * p + 1} : PlaneRows{p, p + dim / 2};
}

/// Adds up the quadratic forms over rows of queries of one text.
class ScoreReader {
 public:
  /// `every`: of a sequence's rows, one in so many is looked at.
  ScoreReader(RopeStyle style, float scale, std::int64_t every, ThreadPool& pool)
      : style_(style), scale_(scale), every_(every), pool_(pool) {}

  /// Rows of a sequence of `tokens` that are looked at: one in `every`, but 16 at least, a quarter
  /// of them in the last sixteenth, where answers stand.
  [[nodiscard]] static std::vector<std::int64_t> sample(std::int64_t tokens, std::int64_t every);

  /// qkv [tokens, cols] of a whole sequence, rotated; forms [group], each [head_dim, head_dim]:
  /// coefficients 2p and 2p + 1 are real and imaginary part of plane p's. Exact in the keys: each
  /// sampled query meets all that it sees, but for those of less than a thousandth of an even share
  /// of its attention. 2 head_dim^2 multiplications for each pair.
  void add(std::span<const float> qkv, std::int64_t cols, const HeadColumns& head,
           const HeadClass& sees, std::span<Matrix> forms);

 private:
  /// The weighted errors of one query [keys, head_dim].
  void errors(const float* query, std::span<const float> qkv, std::int64_t cols,
              const HeadColumns& head, const HeadClass& sees, std::int64_t at, Matrix& out) const;

  RopeStyle style_;
  float scale_;
  std::int64_t every_;
  ThreadPool& pool_;
};

/// Planes of a KV head and the factors of its queries.
struct KeyCut {
  std::vector<std::int32_t> planes;         // kept, ascending
  std::vector<std::complex<double>> gains;  // [group, planes]: 1 + c
};

/// Planes dropped one by one, always the one without which the forms [group] are least when the
/// other coefficients are the best there are (optimal brain surgeon, Hassibi and Stork 1993).
/// widths: numbers of a key, even, descending; the result has a cut for each.
[[nodiscard]] std::vector<KeyCut> cut_keys(std::span<const Matrix> forms,
                                           std::span<const std::int32_t> widths);

/// Rows of a projection [heads * dim, cols] with the planes of each head that its cut keeps.
/// cuts [kv_heads]; null: the head stays whole. Each KV head has `group` heads of rows; for
/// queries they are multiplied by the gains, for keys (group 1) not.
enum class Side : std::uint8_t { query, key };
[[nodiscard]] Matrix keep_planes(const Matrix& whole, std::span<const KeyCut* const> cuts,
                                 std::int64_t group, std::int64_t dim, RopeStyle style, Side side);

}  // namespace sedpa
