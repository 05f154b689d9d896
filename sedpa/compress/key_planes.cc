#include "sedpa/compress/key_planes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

/// Of the diagonal: what the text shows of two planes is not known to be exactly the same.
constexpr double kFormRidge = 1e-3;
/// Of an even share of a row's attention.
constexpr double kLeastShare = 1e-3;
constexpr std::int64_t kLeastSample = 16;
/// Parts of the sampled queries that are added up side by side, then one after the other: the same
/// sum, whatever the number of threads.
constexpr std::int64_t kSlices = 16;

/// A 2 x 2 block of a symmetric matrix, and its inverse times a vector.
struct Block {
  double a, b, d;

  [[nodiscard]] static Block of(const Matrix& m, std::int64_t plane) {
    return {m.at(2 * plane, 2 * plane), m.at(2 * plane, 2 * plane + 1),
            m.at(2 * plane + 1, 2 * plane + 1)};
  }
  [[nodiscard]] std::array<double, 2> solve(double x, double y) const {
    const double determinant = a * d - b * b;
    return {(d * x - b * y) / determinant, (a * y - b * x) / determinant};
  }
};

/// The form of one query head while planes go: the inverse over those that are there, and the
/// coefficients that make good what went.
struct Surgeon {
  explicit Surgeon(Matrix form) : coefficients(static_cast<std::size_t>(form.rows)) {
    const std::int64_t n = form.rows;
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += form.at(i, i);
    // Where nothing was seen at all, every plane counts alike.
    const double least = trace > 0 ? 1e-9 * trace / static_cast<double>(n) : 1;
    for (std::int64_t i = 0; i < n; ++i) form.at(i, i) += kFormRidge * form.at(i, i) + least;
    inverse = solve(std::move(form), identity(n));
  }

  /// What takes plane p to nothing: its real coefficient to -1, its imaginary one to 0.
  [[nodiscard]] std::array<double, 2> step(std::int64_t p) const {
    return Block::of(inverse, p).solve(need(p, 0), need(p, 1));
  }
  [[nodiscard]] double cost(std::int64_t p) const {
    const auto [x, y] = step(p);
    return need(p, 0) * x + need(p, 1) * y;
  }
  void drop(std::int64_t p) {
    const std::int64_t n = inverse.rows;
    const auto [x, y] = step(p);
    Matrix column(n, 2);
    for (std::int64_t i = 0; i < n; ++i) {
      column.at(i, 0) = inverse.at(i, 2 * p);
      column.at(i, 1) = inverse.at(i, 2 * p + 1);
      coefficients[static_cast<std::size_t>(i)] += column.at(i, 0) * x + column.at(i, 1) * y;
    }
    const Block block = Block::of(inverse, p);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto [u, v] = block.solve(column.at(i, 0), column.at(i, 1));
      for (std::int64_t j = 0; j < n; ++j) {
        inverse.at(i, j) -= u * column.at(j, 0) + v * column.at(j, 1);
      }
    }
  }
  [[nodiscard]] double need(std::int64_t p, std::int64_t part) const {
    return (part == 0 ? -1.0 : 0.0) - coefficients[static_cast<std::size_t>(2 * p + part)];
  }

  Matrix inverse;
  std::vector<double> coefficients;
};

}  // namespace

std::vector<std::int64_t> ScoreReader::sample(std::int64_t tokens, std::int64_t every) {
  const std::int64_t count = std::min(tokens, std::max(kLeastSample, tokens / every));
  const std::int64_t late = tokens - tokens / 16;  // rows from here on are the last sixteenth
  const std::int64_t of_late = std::min(count / 4, tokens - late);
  std::vector<std::int64_t> rows;
  const auto spread = [&](std::int64_t begin, std::int64_t end, std::int64_t wanted) {
    for (std::int64_t i = 1; i <= wanted; ++i)
      rows.push_back(begin + (end - begin) * i / wanted - 1);
  };
  spread(0, late, count - of_late);
  spread(late, tokens, of_late);
  return rows;
}

void ScoreReader::errors(const float* query, std::span<const float> qkv, std::int64_t cols,
                         const HeadColumns& head, const HeadClass& sees, std::int64_t at,
                         Matrix& out) const {
  const std::int64_t dim = head.key_dim;
  const auto key = [&](std::int64_t j) { return qkv.data() + j * cols + head.key; };
  std::vector<std::int64_t> seen;
  std::vector<double> weights;
  double most = -std::numeric_limits<double>::infinity();
  for (std::int64_t j = 0; j <= at; ++j) {
    if (!sees.full && !sees.sees(at, j)) continue;
    const float* k = key(j);
    float score = 0;
    for (std::int64_t i = 0; i < dim; ++i) score += query[i] * k[i];
    seen.push_back(j);
    weights.push_back(double{score} * scale_);
    most = std::max(most, weights.back());
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - most);
  std::vector<double> mean(static_cast<std::size_t>(dim));
  for (std::size_t i = 0; i < seen.size(); ++i) {
    weights[i] /= sum;
    const float* k = key(seen[i]);
    for (std::int64_t c = 0; c < dim; ++c) mean[static_cast<std::size_t>(c)] += weights[i] * k[c];
  }
  const double least = kLeastShare / static_cast<double>(seen.size());
  const auto count = std::ranges::count_if(weights, [&](double w) { return w >= least; });
  out.rows = count;
  out.cols = dim;
  out.numbers.resize(static_cast<std::size_t>(count * dim));
  double* row = out.numbers.data();
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (weights[i] < least) continue;
    const float* k = key(seen[i]);
    const double root = std::sqrt(weights[i]);
    for (std::int64_t p = 0; p < dim / 2; ++p) {
      const auto [a, b] = plane_rows(style_, dim, p);
      const double x = root * (k[a] - mean[static_cast<std::size_t>(a)]);
      const double y = root * (k[b] - mean[static_cast<std::size_t>(b)]);
      row[2 * p] = query[a] * x + query[b] * y;
      row[2 * p + 1] = query[a] * y - query[b] * x;
    }
    row += dim;
  }
}

void ScoreReader::add(std::span<const float> qkv, std::int64_t cols, const HeadColumns& head,
                      const HeadClass& sees, std::span<Matrix> forms) {
  const auto rows = sample(std::ssize(qkv) / cols, every_);
  const BlasThreads alone(1);  // each thread of the pool has products of its own
  std::vector<Matrix> sums(forms.size() * kSlices, Matrix(head.key_dim, head.key_dim));
  pool_.for_each(std::ssize(sums), [&](std::int64_t part, int) {
    const std::int64_t column = head.query + part / kSlices * head.key_dim;
    Matrix of_query;
    for (auto i = static_cast<std::size_t>(part % kSlices); i < rows.size(); i += kSlices) {
      errors(qkv.data() + rows[i] * cols + column, qkv, cols, head, sees, rows[i], of_query);
      add_products(of_query, sums[static_cast<std::size_t>(part)]);
    }
  });
  for (std::size_t i = 0; i < sums.size(); ++i) {
    std::vector<double>& form = forms[i / kSlices].numbers;
    std::ranges::transform(form, sums[i].numbers, form.begin(), std::plus<>());
  }
}

std::vector<KeyCut> cut_keys(std::span<const Matrix> forms, std::span<const std::int32_t> widths) {
  std::vector<Surgeon> queries(forms.begin(), forms.end());
  const std::int64_t planes = forms.front().rows / 2;
  std::vector<bool> kept(static_cast<std::size_t>(planes), true);
  std::int64_t left = planes;
  std::vector<KeyCut> cuts;
  for (const std::int32_t width : widths) {
    for (; left > width / 2; --left) {
      std::int64_t best = -1;
      double least = std::numeric_limits<double>::infinity();
      for (std::int64_t p = 0; p < planes; ++p) {
        if (!kept[static_cast<std::size_t>(p)]) continue;
        double cost = 0;
        for (const Surgeon& query : queries) cost += query.cost(p);
        if (best < 0 || cost < least) {
          best = p;
          least = cost;
        }
      }
      for (Surgeon& query : queries) query.drop(best);
      kept[static_cast<std::size_t>(best)] = false;
    }
    KeyCut cut;
    for (std::int64_t p = 0; p < planes; ++p) {
      if (kept[static_cast<std::size_t>(p)]) cut.planes.push_back(static_cast<std::int32_t>(p));
    }
    for (const Surgeon& query : queries) {
      for (const std::int32_t p : cut.planes) {
        const auto at = static_cast<std::size_t>(2 * p);
        cut.gains.emplace_back(1 + query.coefficients[at], query.coefficients[at + 1]);
      }
    }
    cuts.push_back(std::move(cut));
  }
  return cuts;
}

Matrix keep_planes(const Matrix& whole, std::span<const KeyCut* const> cuts, std::int64_t group,
                   std::int64_t dim, RopeStyle style, Side side) {
  std::int64_t rows = 0;
  for (const KeyCut* cut : cuts) rows += group * (cut ? 2 * std::ssize(cut->planes) : dim);
  Matrix kept(rows, whole.cols);
  std::int64_t from = 0;
  std::int64_t to = 0;
  for (const KeyCut* cut : cuts) {
    for (std::int64_t g = 0; g < group; ++g, from += dim) {
      if (cut == nullptr) {
        std::copy_n(whole.row(from), dim * whole.cols, kept.row(to));
        to += dim;
        continue;
      }
      const std::int64_t count = std::ssize(cut->planes);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto [a, b] = plane_rows(style, dim, cut->planes[static_cast<std::size_t>(i)]);
        const auto [c, d] = plane_rows(style, 2 * count, i);
        const std::complex<double> gain =
            side == Side::query ? cut->gains[static_cast<std::size_t>(g * count + i)] : 1.0;
        for (std::int64_t k = 0; k < whole.cols; ++k) {
          const std::complex<double> turned =
              gain * std::complex(whole.at(from + a, k), whole.at(from + b, k));
          kept.at(to + c, k) = turned.real();
          kept.at(to + d, k) = turned.imag();
        }
      }
      to += 2 * count;
    }
  }
  return kept;
}

}  // namespace sedpa
