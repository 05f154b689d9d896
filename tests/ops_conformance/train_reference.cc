#include "tests/ops_conformance/train_reference.h"

#include <algorithm>
#include <cmath>

namespace sedpa::conformance::reference {
namespace {

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

double absolute_dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += std::abs(a[i] * b[i]);
  return sum;
}

/// What one query row of one head gives to each key that it sees.
struct RowWeights {
  std::vector<std::int64_t> keys;
  std::vector<double> weights;
  double lse = 0;
};

RowWeights weigh(const AttentionShape& shape, const HeadClass& head_class, const Matrix& qkv,
                 std::int64_t row, std::int64_t head) {
  const std::int64_t dim = shape.head_dim;
  const double* query = qkv.row(row) + head * dim;
  const std::int64_t key_col = shape.key_begin() + head / shape.group() * dim;
  RowWeights of;
  double largest = -INFINITY;
  for (std::int64_t j = 0; j <= row; ++j) {
    if (!head_class.sees(row, j)) continue;
    of.keys.push_back(j);
    of.weights.push_back(shape.scale * dot(query, qkv.row(j) + key_col, dim));
    largest = std::max(largest, of.weights.back());
  }
  double sum = 0;
  for (double& weight : of.weights) sum += weight = std::exp(weight - largest);
  for (double& weight : of.weights) weight /= sum;
  of.lse = largest + std::log(sum);
  return of;
}

}  // namespace

Matrix rms_norm_backward(const Matrix& x, std::span<const float> weight, double eps,
                         std::int64_t width, const Matrix& d_out) {
  Matrix d_x(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t begin = 0; begin < x.cols; begin += width) {
      double squares = 0;
      double along = 0;  // of x and what reaches x / norm
      for (std::int64_t i = 0; i < width; ++i) {
        squares += x.at(t, begin + i) * x.at(t, begin + i);
        along += x.at(t, begin + i) * weight[i] * d_out.at(t, begin + i);
      }
      const double n = static_cast<double>(width);
      const double norm = std::sqrt(squares / n + eps);
      for (std::int64_t i = 0; i < width; ++i) {
        d_x.at(t, begin + i) = weight[i] * d_out.at(t, begin + i) / norm -
                               x.at(t, begin + i) * along / (n * norm * norm * norm);
      }
    }
  }
  return d_x;
}

Matrix transposed(const Matrix& m) {
  Matrix out(m.cols, m.rows);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    for (std::int64_t j = 0; j < m.cols; ++j) out.at(j, i) = m.at(i, j);
  }
  return out;
}

Matrix rope_backward(const RopeSpec& rope, std::int64_t heads, std::int64_t head_dim,
                     std::int64_t first, const Matrix& d_qkv) {
  Matrix out = d_qkv;
  for (std::int64_t t = 0; t < d_qkv.rows; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < rope.dim / 2; ++i) {
        const double angle = static_cast<double>(first + t) * rope.inverse_frequency[i];
        const double cosine = std::cos(angle) * rope.magnitude;
        const double sine = std::sin(angle) * rope.magnitude;
        const bool halves = rope.style == RopeStyle::halves;
        const std::int64_t one = h * head_dim + (halves ? i : 2 * i);
        const std::int64_t two = halves ? one + rope.dim / 2 : one + 1;
        out.at(t, one) = d_qkv.at(t, one) * cosine + d_qkv.at(t, two) * sine;
        out.at(t, two) = d_qkv.at(t, two) * cosine - d_qkv.at(t, one) * sine;
      }
    }
  }
  return out;
}

Matrix swiglu_backward(const Matrix& gate_up, const Matrix& d_out) {
  const std::int64_t width = d_out.cols;
  Matrix d(gate_up.rows, gate_up.cols);
  for (std::int64_t t = 0; t < d.rows; ++t) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = gate_up.at(t, i);
      const double sigmoid = 1 / (1 + std::exp(-gate));
      d.at(t, i) =
          d_out.at(t, i) * gate_up.at(t, width + i) * sigmoid * (1 + gate / (1 + std::exp(gate)));
      d.at(t, width + i) = d_out.at(t, i) * gate * sigmoid;
    }
  }
  return d;
}

SequenceAttention sequence_attention(const AttentionShape& shape, const HeadClass& head_class,
                                     const Matrix& qkv) {
  const std::int64_t dim = shape.head_dim;
  SequenceAttention result{Matrix(qkv.rows, shape.out_cols()), Matrix(qkv.rows, shape.query_heads)};
  for (std::int64_t row = 0; row < qkv.rows; ++row) {
    for (std::int64_t head = 0; head < shape.query_heads; ++head) {
      const RowWeights of = weigh(shape, head_class, qkv, row, head);
      const std::int64_t value_col = shape.value_begin() + head / shape.group() * dim;
      result.lse.at(row, head) = of.lse;
      for (std::size_t i = 0; i < of.keys.size(); ++i) {
        for (std::int64_t d = 0; d < dim; ++d) {
          result.out.at(row, head * dim + d) += of.weights[i] * qkv.at(of.keys[i], value_col + d);
        }
      }
    }
  }
  return result;
}

Matrix sequence_attention_backward(const AttentionShape& shape, const HeadClass& head_class,
                                   const Matrix& qkv, const Matrix& d_out, Matrix* magnitude) {
  const std::int64_t dim = shape.head_dim;
  Matrix d_qkv(qkv.rows, qkv.cols);
  if (magnitude != nullptr) *magnitude = Matrix(qkv.rows, qkv.cols);
  for (std::int64_t row = 0; row < qkv.rows; ++row) {
    for (std::int64_t head = 0; head < shape.query_heads; ++head) {
      const RowWeights of = weigh(shape, head_class, qkv, row, head);
      const std::int64_t query_col = head * dim;
      const std::int64_t key_col = shape.key_begin() + head / shape.group() * dim;
      const std::int64_t value_col = shape.value_begin() + head / shape.group() * dim;
      const double* d = d_out.row(row) + query_col;
      std::vector<double> d_weights(of.keys.size());
      std::vector<double> sizes(of.keys.size());
      double mean = 0;  // of the weights' gradients
      double mean_size = 0;
      for (std::size_t i = 0; i < of.keys.size(); ++i) {
        const double* value = qkv.row(of.keys[i]) + value_col;
        d_weights[i] = dot(d, value, dim);
        sizes[i] = absolute_dot(d, value, dim);
        mean += of.weights[i] * d_weights[i];
        mean_size += of.weights[i] * sizes[i];
      }
      for (std::size_t i = 0; i < of.keys.size(); ++i) {
        const std::int64_t j = of.keys[i];
        const double d_score = shape.scale * of.weights[i] * (d_weights[i] - mean);
        const double size = std::abs(shape.scale) * of.weights[i] * (sizes[i] + mean_size);
        for (std::int64_t c = 0; c < dim; ++c) {
          d_qkv.at(row, query_col + c) += d_score * qkv.at(j, key_col + c);
          d_qkv.at(j, key_col + c) += d_score * qkv.at(row, query_col + c);
          d_qkv.at(j, value_col + c) += of.weights[i] * d[c];
          if (magnitude == nullptr) continue;
          magnitude->at(row, query_col + c) += size * std::abs(qkv.at(j, key_col + c));
          magnitude->at(j, key_col + c) += size * std::abs(qkv.at(row, query_col + c));
          magnitude->at(j, value_col + c) += of.weights[i] * std::abs(d[c]);
        }
      }
    }
  }
  return d_qkv;
}

Matrix mix_heads(std::span<const double> gates, const Matrix& full, const Matrix& windowed) {
  Matrix out(full.rows, full.cols);
  const std::int64_t cols = full.cols / std::ssize(gates);
  for (std::int64_t t = 0; t < out.rows; ++t) {
    for (std::int64_t c = 0; c < out.cols; ++c) {
      const double gate = gates[static_cast<std::size_t>(c / cols)];
      out.at(t, c) = gate * full.at(t, c) + (1 - gate) * windowed.at(t, c);
    }
  }
  return out;
}

Matrix mix_heads_backward(std::span<const double> gates, const Matrix& full, const Matrix& windowed,
                          const Matrix& d_out, std::span<double> d_gates) {
  Matrix d_windowed(full.rows, full.cols);
  const std::int64_t cols = full.cols / std::ssize(gates);
  for (std::int64_t t = 0; t < full.rows; ++t) {
    for (std::int64_t c = 0; c < full.cols; ++c) {
      const auto head = static_cast<std::size_t>(c / cols);
      d_gates[head] += d_out.at(t, c) * (full.at(t, c) - windowed.at(t, c));
      d_windowed.at(t, c) = (1 - gates[head]) * d_out.at(t, c);
    }
  }
  return d_windowed;
}

double mean_squared_error(const Matrix& x, const Matrix& target) {
  double sum = 0;
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    sum += (x.data[i] - target.data[i]) * (x.data[i] - target.data[i]);
  }
  return sum / static_cast<double>(x.data.size());
}

Matrix mean_squared_error_backward(const Matrix& x, const Matrix& target) {
  Matrix d_x(x.rows, x.cols);
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    d_x.data[i] = 2 * (x.data[i] - target.data[i]) / static_cast<double>(x.data.size());
  }
  return d_x;
}

}  // namespace sedpa::conformance::reference
