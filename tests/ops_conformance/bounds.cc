#include "tests/ops_conformance/bounds.h"

#include <algorithm>
#include <cmath>

#include "sedpa/attention/kv_policy.h"

namespace sedpa::conformance {
namespace {

double square(double x) { return x * x; }

double bf16_radius(double x) {
  const auto value = static_cast<float>(x);
  return bf16_to_f32(f32_to_bf16(value)) == value ? 0 : kBf16Unit * std::abs(x);
}

/// sum_k |w_k x_k|
double absolute_dot(const double* w, const double* x, std::int64_t n) {
  double sum = 0;
  for (std::int64_t k = 0; k < n; ++k) sum += std::abs(w[k] * x[k]);
  return sum;
}

/// Terms of a matrix product's bound, one output at a time.
struct ProductBound {
  const Matrix& w;
  const Matrix& radius;  // of w
  Matrix x_radius;       // [tokens, cols]
  Matrix w_moves;        // of w's own rounding; no rows: none

  ProductBound(const Matrix& weights, const Matrix& weight_radius, const Matrix& x,
               Rounding rounding, Rounding weight_rounding)
      : w(weights), radius(weight_radius), x_radius(x.rows, x.cols) {
    if (weight_rounding == Rounding::bf16) {
      w_moves = w;
      std::transform(w.data.begin(), w.data.end(), w_moves.data.begin(), bf16_radius);
    }
    for (std::int64_t t = 0; t < x.rows; ++t) {
      const auto moves = rounding_radius(rounding, {x.row(t), static_cast<std::size_t>(x.cols)});
      std::copy(moves.begin(), moves.end(), x_radius.row(t));
    }
  }

  /// sum_k (move of w_k times x_k)^2
  [[nodiscard]] double weight_variance(const Matrix& x, std::int64_t t, std::int64_t r) const {
    if (w_moves.rows == 0) return 0;
    double sum = 0;
    for (std::int64_t k = 0; k < w.cols; ++k) sum += square(w_moves.at(r, k) * x.at(t, k));
    return sum;
  }

  /// Everything but the rounding of activations and weights.
  [[nodiscard]] double arithmetic(const Matrix& x, std::int64_t t, std::int64_t r) const {
    double bound =
        f32_growth(static_cast<double>(w.cols)) * absolute_dot(w.row(r), x.row(t), w.cols);
    if (radius.rows > 0) bound += absolute_dot(radius.row(r), x.row(t), w.cols);
    return bound;
  }
};

/// sum_k (w_k r_k)^2
double variance(const double* w, const double* radius, std::int64_t n) {
  double sum = 0;
  for (std::int64_t k = 0; k < n; ++k) sum += square(w[k] * radius[k]);
  return sum;
}

}  // namespace

double f32_growth(double n) { return kUnit * (4 + std::min(n, kLambda * std::sqrt(n))); }

std::vector<double> rounding_radius(Rounding rounding, std::span<const double> row) {
  std::vector<double> radius(row.size(), 0.0);
  if (rounding == Rounding::bf16) {
    std::transform(row.begin(), row.end(), radius.begin(), bf16_radius);
  }
  if (rounding == Rounding::int15) {
    for (std::size_t begin = 0; begin < row.size(); begin += kInt15Block) {
      const auto block = row.subspan(begin, std::min<std::size_t>(kInt15Block, row.size() - begin));
      double largest = 0;
      for (double x : block) largest = std::max(largest, std::abs(x));
      const double step = largest / kInt15Largest;
      const bool exact = largest == 0 || std::all_of(block.begin(), block.end(), [&](double x) {
                           return x / step == std::round(x / step);
                         });
      // A step that is itself rounded moves the grid by a few u of x; f32_growth's spare units.
      if (!exact)
        std::fill_n(radius.begin() + static_cast<std::ptrdiff_t>(begin), block.size(), step / 2);
    }
  }
  return radius;
}

Matrix linear_bound(const LinearBoundInput& in) {
  const bool low_rank = in.b.rows > 0;
  const std::int64_t tokens = in.x.rows;
  Matrix bound(tokens, in.a.rows);

  // y = b x first, or x itself; then a y.
  const Matrix y = low_rank ? reference::multiply(in.b, in.x) : in.x;
  const ProductBound outer(in.a, in.a_radius, y, in.a_rounding, in.a_weight_rounding);
  const ProductBound inner(in.b, in.b_radius, in.x, low_rank ? in.b_rounding : Rounding::none,
                           in.b_weight_rounding);

  // The moves of x reach the result through all of y at once: through the matrix a b.
  Matrix both(low_rank ? in.a.rows : 0, in.x.cols);
  for (std::int64_t r = 0; r < both.rows; ++r) {
    for (std::int64_t i = 0; i < in.a.cols; ++i) {
      for (std::int64_t k = 0; k < both.cols; ++k) both.at(r, k) += in.a.at(r, i) * in.b.at(i, k);
    }
  }

  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<double> y_error(static_cast<std::size_t>(low_rank ? y.cols : 0));
    std::vector<double> y_variance(y_error.size());
    for (std::size_t i = 0; i < y_error.size(); ++i) {
      y_error[i] = inner.arithmetic(in.x, t, static_cast<std::int64_t>(i));
      y_variance[i] = inner.weight_variance(in.x, t, static_cast<std::int64_t>(i));
    }
    for (std::int64_t r = 0; r < bound.cols; ++r) {
      double moves =
          variance(in.a.row(r), outer.x_radius.row(t), in.a.cols) + outer.weight_variance(y, t, r);
      for (std::size_t i = 0; i < y_variance.size(); ++i) {
        moves += square(in.a.at(r, static_cast<std::int64_t>(i))) * y_variance[i];
      }
      double sum = outer.arithmetic(y, t, r);
      if (low_rank) {
        moves += variance(both.row(r), inner.x_radius.row(t), in.x.cols);
        sum += absolute_dot(in.a.row(r), y_error.data(), in.a.cols);
      }
      if (!in.bias.empty()) sum += 2 * kUnit * std::abs(in.bias[r]);
      if (in.residual.rows > 0) sum += 2 * kUnit * std::abs(in.residual.at(t, r));
      bound.at(t, r) = sum + kLambda * std::sqrt(moves);
    }
  }
  return bound;
}

double norm_bound(std::int64_t width) {
  return f32_growth(static_cast<double>(width)) / 2 + 6 * kUnit;
}

// With p = softmax(s) and o = sum_j p_j v_j, moves ds_j of the scores move o by
// sum_j p_j ds_j (v_j - o) to first order. Of a score: the rounding of q and k, the f32 sum over
// its numbers, a few units of its own size (scaling, subtracting the largest) and exp to 4 ulp.
// Then the weights and values may be rounded to bf16, and both sums over the n keys, of p and of p
// v, grow like f32 sums. Weights below the normal f32 numbers may vanish, and keys that are not
// visible may keep the smallest of them. The factor on the first part covers second order: ds stays
// below 0.1.
std::vector<double> attention_bound(Rounding rounding, std::span<const double> query, double scale,
                                    const reference::HeadHistory& history,
                                    std::span<const std::int64_t> positions,
                                    std::span<const double> weights, std::span<const double> out) {
  const std::size_t dim = query.size();
  // The scale of the scores may be part of the query before it is rounded, so a query moves even
  // when bf16 could hold it.
  std::vector<double> query_radius(dim, 0.0);
  if (rounding == Rounding::bf16) {
    std::transform(query.begin(), query.end(), query_radius.begin(),
                   [](double x) { return kBf16Unit * std::abs(x); });
  }
  const double weight_radius = rounding == Rounding::bf16 ? kBf16Unit : 0;
  const double growth = f32_growth(static_cast<double>(positions.size()));
  double largest = 0;  // score
  std::vector<double> score_bound(positions.size());
  std::vector<double> score(positions.size());
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const auto& key = history.keys[positions[i]];
    const auto key_radius = rounding_radius(rounding, key);
    double dot = 0;
    double absolute = 0;
    double moves = 0;
    for (std::size_t d = 0; d < dim; ++d) {
      dot += query[d] * key[d];
      absolute += std::abs(query[d] * key[d]);
      moves += square(query[d] * key_radius[d]) + square(key[d] * query_radius[d]);
    }
    score[i] = scale * dot;
    largest = i == 0 ? score[i] : std::max(largest, score[i]);
    score_bound[i] =
        scale * (f32_growth(static_cast<double>(dim)) * absolute + kLambda * std::sqrt(moves));
  }
  for (std::size_t i = 0; i < positions.size(); ++i) {
    score_bound[i] += kUnit * (8 + 2 * std::abs(score[i]) + 2 * (largest - score[i]));
  }

  std::vector<double> bound(out.size());
  for (std::size_t d = 0; d < out.size(); ++d) {
    double from_scores = 0;
    double absolute = 0;
    double moves = 0;
    double vanished = 0;
    for (const auto& row : history.values) vanished += kSmallest * std::abs(row[d]);
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const double value = history.values[positions[i]][d];
      const double value_radius = rounding == Rounding::bf16 ? bf16_radius(value) : 0;
      from_scores += weights[i] * score_bound[i] * std::abs(value - out[d]);
      absolute += weights[i] * std::abs(value);
      // A lone key has weight 1, which rounds to itself.
      if (positions.size() > 1) moves += square(weights[i] * weight_radius * value);
      moves += square(weights[i] * value_radius);
    }
    bound[d] = 1.1 * from_scores + 2 * growth * absolute + vanished + kLambda * std::sqrt(moves);
  }
  return bound;
}

std::vector<double> kv_bound(KvDtype dtype, std::span<const double> row) {
  std::vector<double> bound(row.size());
  for (std::size_t begin = 0; begin < row.size(); begin += kKvBlock) {
    const std::size_t end = std::min(row.size(), begin + kKvBlock);
    double largest = 0;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(row[i]));
    for (std::size_t i = begin; i < end; ++i) {
      switch (dtype) {
        case KvDtype::f32:
          bound[i] = 0;
          break;
        case KvDtype::f16:
          bound[i] = std::max(0x1p-11 * std::abs(row[i]), 0x1p-25);
          break;
        case KvDtype::bf16:
          bound[i] = kBf16Unit * std::abs(row[i]);
          break;
        case KvDtype::q8:
          // Half a step, and the scale rounded to f16 (2^-11 of it, times the code).
          bound[i] = largest / 127 * 0.5 * (1 + 0x1p-10) + 0x1p-11 * std::abs(row[i]);
          break;
        case KvDtype::q4:
          // Codes run from -8 to 7. A symmetric scale puts the largest number at 7 steps; ggml's
          // puts it at -8, whatever its sign, and cuts numbers of the other sign at 7.
          bound[i] =
              std::max(largest / 7 * 0.5, std::abs(row[i]) - largest * 7 / 8) * (1 + 0x1p-10) +
              0x1p-11 * std::abs(row[i]);
          break;
      }
    }
  }
  return bound;
}

}  // namespace sedpa::conformance
