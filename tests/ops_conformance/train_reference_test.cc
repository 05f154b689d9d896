// The reference's gradients against central differences, in doubles: relative error <= 1e-7.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/ops_conformance/inputs.h"
#include "tests/ops_conformance/train_reference.h"

namespace sedpa::conformance {
namespace {

Matrix random_matrix(Random& random, std::int64_t rows, std::int64_t cols) {
  return {rows, cols, normal(random, rows * cols)};
}

double inner(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.data.size(); ++i) sum += a.data[i] * b.data[i];
  return sum;
}

/// Every number of `gradient` against the five-point difference of f at x.
void expect_gradient(const std::function<double(const Matrix&)>& f, const Matrix& x,
                     const Matrix& gradient) {
  constexpr double kStep = 1e-3;
  ASSERT_EQ(gradient.data.size(), x.data.size());
  double largest = 0;
  for (const double g : gradient.data) largest = std::max(largest, std::abs(g));
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    const auto at = [&](double step) {
      Matrix moved = x;
      moved.data[i] += step;
      return f(moved);
    };
    const double slope =
        (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) / (12 * kStep);
    ASSERT_NEAR(gradient.data[i], slope, 1e-7 * std::abs(slope) + 1e-9 * largest) << "number " << i;
  }
}

TEST(TrainReference, RmsNorm) {
  Random random(71);
  const Matrix x = random_matrix(random, 3, 24);
  const Matrix d_out = random_matrix(random, 3, 24);
  for (const std::int64_t width : {24, 8}) {
    const auto weight = normal(random, width);
    expect_gradient(
        [&](const Matrix& at) {
          return inner(reference::rms_norm(at, weight, 1e-2, width), d_out);
        },
        x, reference::rms_norm_backward(x, weight, 1e-2, width, d_out));
  }
}

TEST(TrainReference, Linear) {
  Random random(72);
  const Matrix w = random_matrix(random, 7, 5);
  const Matrix x = random_matrix(random, 4, 5);
  const Matrix d_out = random_matrix(random, 4, 7);
  expect_gradient([&](const Matrix& at) { return inner(reference::multiply(w, at), d_out); }, x,
                  reference::multiply(reference::transposed(w), d_out));
}

TEST(TrainReference, Rope) {
  Random random(73);
  for (const RopeStyle style : {RopeStyle::neighbours, RopeStyle::halves}) {
    const RopeSpec rope{
        .style = style, .dim = 6, .inverse_frequency = {1.0, 0.3, 0.05}, .magnitude = 1.2};
    const Matrix x = random_matrix(random, 3, 4 * 8);
    const Matrix d_out = random_matrix(random, 3, 4 * 8);
    expect_gradient(
        [&](const Matrix& at) { return inner(reference::rope(rope, 3, 8, 11, at), d_out); }, x,
        reference::rope_backward(rope, 3, 8, 11, d_out));
  }
}

TEST(TrainReference, Swiglu) {
  Random random(74);
  const Matrix x = random_matrix(random, 3, 2 * 9);
  const Matrix d_out = random_matrix(random, 3, 9);
  expect_gradient([&](const Matrix& at) { return inner(reference::swiglu(at), d_out); }, x,
                  reference::swiglu_backward(x, d_out));
}

TEST(TrainReference, Attention) {
  Random random(75);
  const AttentionShape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.5f};
  const Matrix x = random_matrix(random, 13, shape.qkv_cols());
  const Matrix d_out = random_matrix(random, 13, shape.out_cols());
  for (const HeadClass& window : {HeadClass::window(2, 0, 4), HeadClass::window(0, 0, 3),
                                  HeadClass::window(3, 0, 1), HeadClass{}}) {
    expect_gradient(
        [&](const Matrix& at) {
          return inner(reference::sequence_attention(shape, window, at).out, d_out);
        },
        x, reference::sequence_attention_backward(shape, window, x, d_out));
  }
}

TEST(TrainReference, MixedHeads) {
  Random random(76);
  const Matrix full = random_matrix(random, 5, 12);
  const Matrix windowed = random_matrix(random, 5, 12);
  const Matrix d_out = random_matrix(random, 5, 12);
  const Matrix gates(1, 3, std::vector<float>{0.25f, 1.0f, 0.0f});
  Matrix d_gates(1, 3);
  const Matrix d_windowed =
      reference::mix_heads_backward(gates.data, full, windowed, d_out, d_gates.data);
  expect_gradient(
      [&](const Matrix& at) { return inner(reference::mix_heads(at.data, full, windowed), d_out); },
      gates, d_gates);
  expect_gradient(
      [&](const Matrix& at) { return inner(reference::mix_heads(gates.data, full, at), d_out); },
      windowed, d_windowed);
}

TEST(TrainReference, MeanSquaredError) {
  Random random(77);
  const Matrix x = random_matrix(random, 4, 6);
  const Matrix target = random_matrix(random, 4, 6);
  expect_gradient([&](const Matrix& at) { return reference::mean_squared_error(at, target); }, x,
                  reference::mean_squared_error_backward(x, target));
}

}  // namespace
}  // namespace sedpa::conformance
