#include "sedpa/compress/value_directions.h"

#include <algorithm>
#include <cmath>

namespace sedpa {
namespace {

/// What draws W' to what each head could do alone, where the text shows little of them all: as
/// much as so many tokens of mean size would, but no more than a share of those that were seen.
constexpr double kRidgeTokens = 2048;
constexpr double kMostRidge = 0.1;
/// The same for the directions: only so that there is an inverse. They would turn to what the text
/// does not show.
constexpr double kLeastRidge = 1e-9;
/// Steps of conjugate gradients in one head's directions.
constexpr int kSteps = 12;

double inner(const Matrix& x, const Matrix& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.numbers.size(); ++i) sum += x.numbers[i] * y.numbers[i];
  return sum;
}

/// x += factor y.
void add(Matrix& x, const Matrix& y, double factor = 1) {
  for (std::size_t i = 0; i < x.numbers.size(); ++i) x.numbers[i] += factor * y.numbers[i];
}

Matrix block(const Matrix& m, std::int64_t row, std::int64_t rows, std::int64_t col,
             std::int64_t cols) {
  Matrix part(rows, cols);
  for (std::int64_t i = 0; i < rows; ++i) std::copy_n(m.row(row + i) + col, cols, part.row(i));
  return part;
}

/// The power of a symmetric matrix without negative eigenvalues.
Matrix power(const Matrix& m, double exponent) {
  const Eigen found = eigen(m);
  const double least = std::max(found.values.front(), 0.0) * 1e-10 + 1e-30;
  Matrix scaled = found.vectors;
  for (std::int64_t i = 0; i < scaled.rows; ++i) {
    for (std::int64_t k = 0; k < scaled.cols; ++k) {
      scaled.at(i, k) *=
          std::pow(std::max(found.values[static_cast<std::size_t>(k)], least), exponent);
    }
  }
  return multiply(scaled, found.vectors, Transposed::right);
}

void add_to_diagonal(Matrix& m, double value) {
  for (std::int64_t i = 0; i < m.rows; ++i) m.at(i, i) += value;
}

double mean_diagonal(const Matrix& m) {
  double trace = 0;
  for (std::int64_t i = 0; i < m.rows; ++i) trace += m.at(i, i);
  return m.rows > 0 ? trace / static_cast<double>(m.rows) : 0;
}

class Alternation {
 public:
  Alternation(const Algebra& algebra, const Matrix& w, const HeadOutputs& outputs,
              std::span<const std::int32_t> widths, std::int64_t group)
      : algebra_(algebra),
        group_(group),
        dim_(w.cols / (group * std::ssize(widths))),
        widths_(widths),
        w_(w),
        own_(outputs.own),
        target_(algebra.multiply(w, outputs.cross)) {
    const double mean = mean_diagonal(own_);
    const double least = mean > 0 ? kLeastRidge * mean : 1;
    const auto tokens = static_cast<double>(std::max<std::int64_t>(outputs.tokens, 1));
    ridge_ = std::min(kRidgeTokens / tokens, kMostRidge) * mean;
    add_to_diagonal(own_, least);
    add(target_, w, least);
    for (std::int64_t k = 0; k < std::ssize(widths); ++k) cut_.directions.push_back(first(w, k));
    fit_output();
  }

  void improve() {
    for (std::int64_t k = 0; k < std::ssize(widths_); ++k) {
      if (!is_thin(k)) continue;
      fit_directions(k);
      fit_output();
    }
  }
  [[nodiscard]] ValueCut result() { return std::move(cut_); }

 private:
  [[nodiscard]] std::int64_t width(std::int64_t k) const {
    return widths_[static_cast<std::size_t>(k)];
  }
  [[nodiscard]] bool is_thin(std::int64_t k) const { return width(k) < dim_; }
  [[nodiscard]] Matrix& directions(std::int64_t k) {
    return cut_.directions[static_cast<std::size_t>(k)];
  }
  /// Column of the output matrix where a KV head's queries begin.
  [[nodiscard]] std::int64_t column(std::int64_t k) const {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < k; ++i) sum += group_ * width(i);
    return sum;
  }

  Matrix first(const Matrix& w, std::int64_t k) const {
    if (!is_thin(k)) return identity(dim_);
    Matrix metric(dim_, dim_);
    Matrix covariance(dim_, dim_);
    for (std::int64_t h = k * group_; h < (k + 1) * group_; ++h) {
      add_products(columns(w, h * dim_, dim_), metric);
      add(covariance, block(own_, h * dim_, dim_, h * dim_, dim_));
    }
    const Matrix root = power(metric, 0.5);
    const Eigen found = eigen(multiply(multiply(root, covariance), root));
    Matrix rows = multiply(columns(found.vectors, 0, width(k)), root, Transposed::left);
    orthonormalize_rows(rows);
    return rows;
  }

  /// m blockdiag(R)' for each query head: columns of whole heads onto directions.
  [[nodiscard]] Matrix onto_directions(const Matrix& m) {
    Matrix thin(m.rows, column(std::ssize(widths_)));
    std::int64_t to = 0;
    for (std::int64_t k = 0; k < std::ssize(widths_); ++k) {
      for (std::int64_t g = 0; g < group_; ++g, to += width(k)) {
        const Matrix part =
            multiply(columns(m, (k * group_ + g) * dim_, dim_), directions(k), Transposed::right);
        for (std::int64_t i = 0; i < m.rows; ++i) {
          std::copy_n(part.row(i), part.cols, thin.row(i) + to);
        }
      }
    }
    return thin;
  }
  [[nodiscard]] static Matrix transposed(const Matrix& m) {
    Matrix t(m.cols, m.rows);
    for (std::int64_t i = 0; i < m.rows; ++i) {
      for (std::int64_t j = 0; j < m.cols; ++j) t.at(j, i) = m.at(i, j);
    }
    return t;
  }

  /// W' = target B' (B own B')^-1, B = blockdiag(R), with a ridge about what each
  /// head's numbers tell of its own outputs.
  void fit_output() {
    const Matrix half = onto_directions(own_);        // own B'
    Matrix seen = onto_directions(transposed(half));  // B own B', symmetric
    add_to_diagonal(seen, ridge_);
    Matrix wanted = onto_directions(target_);
    add(wanted, alone(), ridge_);
    cut_.output = transposed(algebra_.solve(std::move(seen), transposed(wanted)));
  }

  /// W_h own_hh R' (R own_hh R')^-1, query head after query head.
  [[nodiscard]] Matrix alone() {
    Matrix thin(w_.rows, column(std::ssize(widths_)));
    std::int64_t to = 0;
    for (std::int64_t h = 0; h < w_.cols / dim_; ++h) {
      const Matrix& r = directions(h / group_);
      const Matrix half =
          multiply(r, block(own_, h * dim_, dim_, h * dim_, dim_));  // R own, [width, dim]
      Matrix seen = multiply(half, r, Transposed::right);
      add_to_diagonal(seen, kLeastRidge * mean_diagonal(seen) + 1e-300);
      const Matrix part =
          multiply(columns(w_, h * dim_, dim_), solve(std::move(seen), half), Transposed::right);
      for (std::int64_t i = 0; i < part.rows; ++i) {
        std::copy_n(part.row(i), part.cols, thin.row(i) + to);
      }
      to += part.cols;
    }
    return thin;
  }

  /// The step of R_k that takes the error to its least: sum over queries a, b of (W_a' W_b) X S_ba
  /// = sum over a of W_a' E_a, E the target's share that is missing.
  void fit_directions(std::int64_t k) {
    Matrix missing = target_;
    {
      // W' B own = W' (own B')'.
      const Matrix half = onto_directions(own_);
      add(missing, algebra_.multiply(cut_.output, half, Transposed::right), -1);
    }
    std::vector<Matrix> readers;  // [group], [rows, width]
    for (std::int64_t g = 0; g < group_; ++g) {
      readers.push_back(columns(cut_.output, column(k) + g * width(k), width(k)));
    }
    const auto reader = [&](std::int64_t g) -> const Matrix& {
      return readers[static_cast<std::size_t>(g)];
    };
    Matrix left(width(k), dim_);  // what is still to be made good
    Matrix metric(width(k), width(k));
    Matrix covariance(dim_, dim_);
    std::vector<std::pair<Matrix, Matrix>> terms;  // [group * group]: W_a' W_b, S_ba
    for (std::int64_t a = 0; a < group_; ++a) {
      const std::int64_t at = (k * group_ + a) * dim_;
      add(left, multiply(reader(a), columns(missing, at, dim_), Transposed::left));
      for (std::int64_t b = 0; b < group_; ++b) {
        terms.emplace_back(multiply(reader(a), reader(b), Transposed::left),
                           block(own_, (k * group_ + b) * dim_, dim_, at, dim_));
        if (a != b) continue;
        add(metric, terms.back().first);
        add(covariance, terms.back().second);
      }
    }
    add_to_diagonal(metric, 1e-9 * mean_diagonal(metric) + 1e-300);
    const Matrix metric_inverse = solve(std::move(metric), identity(width(k)));
    const Matrix covariance_inverse = solve(std::move(covariance), identity(dim_));
    const auto conditioned = [&](const Matrix& m) {
      return multiply(multiply(metric_inverse, m), covariance_inverse);
    };
    Matrix way = conditioned(left);
    double size = inner(left, way);
    for (int i = 0; i < kSteps && size > 0; ++i) {
      Matrix image(width(k), dim_);
      for (const auto& [weights, outputs] : terms) {
        add(image, multiply(multiply(weights, way), outputs));
      }
      const double curvature = inner(way, image);
      if (!(curvature > 0)) break;
      add(directions(k), way, size / curvature);
      add(left, image, -size / curvature);
      const Matrix next = conditioned(left);
      const double now = inner(left, next);
      Matrix turned = next;
      add(turned, way, now / size);
      way = std::move(turned);
      size = now;
    }
    // Numbers of one size, at right angles: a cache may quantise them. The output matrix, which is
    // fitted next, makes up for the change of basis.
    orthonormalize_rows(directions(k));
  }

  const Algebra& algebra_;
  std::int64_t group_;
  std::int64_t dim_;
  std::span<const std::int32_t> widths_;
  const Matrix& w_;
  Matrix own_;
  Matrix target_;  // W cross
  double ridge_ = 0;
  ValueCut cut_;
};

}  // namespace

ValueCut cut_values(const Algebra& algebra, const Matrix& w, const HeadOutputs& outputs,
                    std::span<const std::int32_t> widths, std::int64_t group, int rounds) {
  Alternation alternation(algebra, w, outputs, widths, group);
  for (int i = 0; i < rounds; ++i) alternation.improve();
  return alternation.result();
}

Matrix project_values(const Matrix& whole, std::span<const Matrix> directions) {
  std::int64_t rows = 0;
  for (const Matrix& head : directions) rows += head.rows;
  Matrix thin(rows, whole.cols);
  std::int64_t from = 0;
  std::int64_t to = 0;
  for (const Matrix& head : directions) {
    const Matrix part = multiply(head, block(whole, from, head.cols, 0, whole.cols));
    std::copy_n(part.numbers.data(), part.numbers.size(), thin.row(to));
    from += head.cols;
    to += head.rows;
  }
  return thin;
}

}  // namespace sedpa
