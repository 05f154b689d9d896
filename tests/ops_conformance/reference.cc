#include "tests/ops_conformance/reference.h"

#include <algorithm>
#include <cmath>

namespace sedpa::conformance {

Matrix::Matrix(std::int64_t row_count, std::int64_t col_count, std::span<const float> values)
    : rows(row_count), cols(col_count), data(values.begin(), values.begin() + rows * cols) {}

namespace reference {

Matrix embed(const Matrix& table, std::span<const std::int32_t> tokens) {
  Matrix out(static_cast<std::int64_t>(tokens.size()), table.cols);
  for (std::int64_t t = 0; t < out.rows; ++t) {
    std::copy_n(table.row(tokens[t]), table.cols, out.row(t));
  }
  return out;
}

Matrix rms_norm(const Matrix& x, std::span<const float> weight, double eps, std::int64_t width) {
  Matrix out(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t begin = 0; begin < x.cols; begin += width) {
      double squares = 0;
      for (std::int64_t i = 0; i < width; ++i) squares += x.at(t, begin + i) * x.at(t, begin + i);
      const double norm = std::sqrt(squares / static_cast<double>(width) + eps);
      for (std::int64_t i = 0; i < width; ++i) {
        out.at(t, begin + i) = x.at(t, begin + i) / norm * weight[i];
      }
    }
  }
  return out;
}

Matrix multiply(const Matrix& w, const Matrix& x) {
  Matrix out(x.rows, w.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t r = 0; r < w.rows; ++r) {
      double sum = 0;
      for (std::int64_t k = 0; k < w.cols; ++k) sum += w.row(r)[k] * x.row(t)[k];
      out.at(t, r) = sum;
    }
  }
  return out;
}

Matrix linear(const Matrix& a, const Matrix& b, const Matrix& x, std::span<const float> bias,
              const Matrix& residual) {
  Matrix out = b.rows > 0 ? multiply(a, multiply(b, x)) : multiply(a, x);
  for (std::int64_t t = 0; t < out.rows; ++t) {
    for (std::int64_t r = 0; r < out.cols; ++r) {
      if (!bias.empty()) out.at(t, r) += bias[r];
      if (residual.rows > 0) out.at(t, r) += residual.at(t, r);
    }
  }
  return out;
}

Matrix rope(const RopeSpec& rope, std::int64_t heads, std::int64_t head_dim, std::int64_t past,
            const Matrix& qkv) {
  Matrix out = qkv;
  for (std::int64_t t = 0; t < qkv.rows; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < rope.dim / 2; ++i) {
        const double angle = static_cast<double>(past + t) * rope.inverse_frequency[i];
        const double cosine = std::cos(angle) * rope.magnitude;
        const double sine = std::sin(angle) * rope.magnitude;
        const bool halves = rope.style == RopeStyle::halves;
        const std::int64_t first = h * head_dim + (halves ? i : 2 * i);
        const std::int64_t second = halves ? first + rope.dim / 2 : first + 1;
        out.at(t, first) = qkv.at(t, first) * cosine - qkv.at(t, second) * sine;
        out.at(t, second) = qkv.at(t, first) * sine + qkv.at(t, second) * cosine;
      }
    }
  }
  return out;
}

Matrix rope_of_planes(const RopeSpec& rope, const LayerShape& shape, std::int32_t group,
                      const std::vector<std::vector<std::uint8_t>>& planes, std::int64_t past,
                      const Matrix& qkv) {
  Matrix out = qkv;
  for (std::int64_t t = 0; t < qkv.rows; ++t) {
    for (std::size_t h = 0; h < shape.heads.size(); ++h) {
      const HeadColumns& head = shape.heads[h];
      const std::int64_t pairs = head.key_dim / 2;
      for (std::int32_t g = 0; g <= group; ++g) {  // the last one is the key
        const std::int64_t begin = g < group ? head.query + g * head.key_dim : head.key;
        for (std::int64_t i = 0; i < pairs; ++i) {
          const std::uint8_t plane = planes[h][static_cast<std::size_t>(i)];
          const double angle = static_cast<double>(past + t) * rope.inverse_frequency[plane];
          const double cosine = std::cos(angle) * rope.magnitude;
          const double sine = std::sin(angle) * rope.magnitude;
          const bool halves = rope.style == RopeStyle::halves;
          const std::int64_t first = begin + (halves ? i : 2 * i);
          const std::int64_t second = halves ? first + pairs : first + 1;
          out.at(t, first) = qkv.at(t, first) * cosine - qkv.at(t, second) * sine;
          out.at(t, second) = qkv.at(t, first) * sine + qkv.at(t, second) * cosine;
        }
      }
    }
  }
  return out;
}

Matrix swiglu(const Matrix& gate_up) {
  const std::int64_t width = gate_up.cols / 2;
  Matrix out(gate_up.rows, width);
  for (std::int64_t t = 0; t < gate_up.rows; ++t) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = gate_up.at(t, i);
      out.at(t, i) = gate / (1 + std::exp(-gate)) * gate_up.at(t, width + i);
    }
  }
  return out;
}

std::vector<double> attention(std::span<const double> query, double scale, std::int64_t position,
                              const HeadClass& head_class, const HeadHistory& history,
                              std::vector<std::int64_t>& positions, std::vector<double>& weights) {
  positions.clear();
  weights.clear();
  double largest = -INFINITY;
  for (std::int64_t j = 0; j <= position; ++j) {
    if (!head_class.sees(position, j)) continue;
    double score = 0;
    for (std::size_t d = 0; d < query.size(); ++d) score += query[d] * history.keys[j][d];
    positions.push_back(j);
    weights.push_back(score * scale);
    largest = std::max(largest, score * scale);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (double& weight : weights) weight /= sum;

  std::vector<double> out(history.values[static_cast<std::size_t>(position)].size(), 0.0);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    for (std::size_t d = 0; d < out.size(); ++d) {
      out[d] += weights[i] * history.values[positions[i]][d];
    }
  }
  return out;
}

}  // namespace reference
}  // namespace sedpa::conformance
