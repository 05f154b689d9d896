#pragma once
// What every operation of sedpa/ops/ops.h means: plain loops over doubles, written for reading.
// Nothing here is fast, blocked, vectorised or shared with a backend.
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/ops/step.h"

namespace sedpa::conformance {

/// A dense matrix of doubles, row after row.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> data;  // [rows, cols]

  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t col_count, double value = 0)
      : rows(row_count),
        cols(col_count),
        data(static_cast<std::size_t>(row_count * col_count), value) {}
  /// From f32 numbers, row after row.
  Matrix(std::int64_t row_count, std::int64_t col_count, std::span<const float> values);

  [[nodiscard]] double* row(std::int64_t i) { return data.data() + i * cols; }
  [[nodiscard]] const double* row(std::int64_t i) const { return data.data() + i * cols; }
  [[nodiscard]] double& at(std::int64_t i, std::int64_t j) { return data[i * cols + j]; }
  [[nodiscard]] double at(std::int64_t i, std::int64_t j) const { return data[i * cols + j]; }
};
inline const Matrix kNone;

namespace reference {

/// out[t] = table[tokens[t]].
Matrix embed(const Matrix& table, std::span<const std::int32_t> tokens);

/// out = x / sqrt(mean(x^2) + eps) * weight for every group of `width` columns of a row: rms_norm
/// when width is the row, head_norm when it is a head. `weight` holds width numbers.
Matrix rms_norm(const Matrix& x, std::span<const float> weight, double eps, std::int64_t width);

/// out[t, r] = sum_k w[r, k] x[t, k].
Matrix multiply(const Matrix& w, const Matrix& x);

/// a x, or a (b x) when b has rows; plus bias and residual where they are not empty.
Matrix linear(const Matrix& a, const Matrix& b, const Matrix& x, std::span<const float> bias,
              const Matrix& residual);

/// The heads of `heads` x `head_dim` leading columns turned by their row's position, the columns
/// after them as they are.
Matrix rope(const RopeSpec& rope, std::int64_t heads, std::int64_t head_dim, std::int64_t past,
            const Matrix& qkv);

/// The same for a layer of thin heads with `group` queries each: pair i of KV head h and of its
/// queries turns as pair planes[h][i] of a whole head would.
Matrix rope_of_planes(const RopeSpec& rope, const LayerShape& shape, std::int32_t group,
                      const std::vector<std::vector<std::uint8_t>>& planes, std::int64_t past,
                      const Matrix& qkv);

/// out = gate / (1 + exp(-gate)) * up for rows [gate | up].
Matrix swiglu(const Matrix& gate_up);

/// What one KV head has seen so far, by position. Numbers that were never stored are NaN: a mask
/// that asks for them spoils the result.
struct HeadHistory {
  std::vector<std::vector<double>> keys;    // [positions][numbers of a key]
  std::vector<std::vector<double>> values;  // [positions][numbers of a value]
};

/// Attention of one query at `position`: softmax(scale q.k) v over the positions that the class
/// sees. `weights` and `positions` come back with what each visible key got.
std::vector<double> attention(std::span<const double> query, double scale, std::int64_t position,
                              const HeadClass& head_class, const HeadHistory& history,
                              std::vector<std::int64_t>& positions, std::vector<double>& weights);

}  // namespace reference
}  // namespace sedpa::conformance
