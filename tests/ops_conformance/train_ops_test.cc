// The operations of training on every backend, against the reference.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sedpa/ops/train_ops.h"
#include "tests/ops_conformance/device.h"
#include "tests/ops_conformance/inputs.h"
#include "tests/ops_conformance/train_reference.h"

namespace sedpa::conformance {
namespace {

/// A backend with room for the rows of a test.
struct Bench {
  std::unique_ptr<Ops> ops;
  TrainOps& train;

  Bench(const Backend& backend, const TrainPlan& plan) : ops(backend.make()), train(ops->train()) {
    train.reserve(plan);
  }
};

TrainPlan small_plan(std::int64_t rows, std::int64_t cols) {
  TrainPlan plan;
  plan.attention = {.query_heads = 1, .kv_heads = 1, .head_dim = 16, .scale = 0.25f};
  plan.rope = {.dim = 16, .inverse_frequency = std::vector<double>(8, 1.0)};
  plan.max_tokens = plan.max_rows = plan.max_context = rows;
  plan.max_cols = cols;
  return plan;
}

/// Of the absolute values of what a number of attention is made of: a few roundings and sums of up
/// to some thousand terms, all in f32.
constexpr double kAttentionBound = 1e-5;

Matrix scaled(Matrix m, double factor, double floor = 0) {
  for (double& x : m.data) x = std::abs(x) * factor + floor;
  return m;
}

/// Both terms of rms_norm_backward, and every product in them, at their size.
Matrix norm_gradient_size(const Matrix& x, std::span<const float> weight, double eps,
                          std::int64_t width, const Matrix& d_out) {
  std::vector<float> sizes;
  for (const float w : weight) sizes.push_back(std::abs(w));
  const Matrix difference =
      reference::rms_norm_backward(scaled(x, 1), sizes, eps, width, scaled(d_out, 1));
  Matrix size(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t begin = 0; begin < x.cols; begin += width) {
      double squares = 0;
      for (std::int64_t i = 0; i < width; ++i) squares += x.at(t, begin + i) * x.at(t, begin + i);
      const double norm = std::sqrt(squares / static_cast<double>(width) + eps);
      for (std::int64_t i = 0; i < width; ++i) {
        const double direct = std::abs(sizes[i] * d_out.at(t, begin + i)) / norm;
        size.at(t, begin + i) = direct + std::abs(direct - difference.at(t, begin + i));
      }
    }
  }
  return size;
}

std::vector<float> bf16_grid(std::vector<float> values) {
  for (float& x : values) x = bf16_to_f32(f32_to_bf16(x));
  return values;
}

/// Dense rows as StoredRows keeps them.
struct Stored {
  Buffer buffer;
  StoredRows rows;

  Stored(Ops& ops, TrainOps& train, Dtype dtype, std::int64_t count, std::int64_t cols,
         const std::vector<float>& values)
      : buffer(ops.allocate(static_cast<std::size_t>(count * row_bytes(dtype, cols)))),
        rows{buffer.data, dtype, count, cols} {
    DeviceRows from(ops, count, cols);
    from.write(values);
    train.store(from.view(), rows);
  }
};

TEST(TrainStore, RoundsToNearestEven) {
  Random random(81);
  const auto values = normal(random, 7 * 19);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const Bench bench(backend, small_plan(7, 32));
    for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
      const Stored stored(*bench.ops, bench.train, dtype, 7, 19, values);
      std::vector<std::byte> bytes(stored.buffer.bytes);
      bench.ops->copy_to_host(stored.buffer.data, bytes.data(), bytes.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (dtype == Dtype::f32) {
          EXPECT_EQ(std::memcmp(bytes.data() + 4 * i, &values[i], 4), 0) << i;
        } else {
          const std::uint16_t expected = f32_to_bf16(values[i]);
          EXPECT_EQ(std::memcmp(bytes.data() + 2 * i, &expected, 2), 0) << i;
        }
      }
    }
  }
}

TEST(RmsNormBackward, ManyWidths) {
  Random random(82);
  constexpr std::int64_t kRows = 30;
  constexpr float kEpsilon = 1e-5f;
  for (const std::int64_t width : {5, 16, 64, 100, 576, 4099}) {
    // The row itself, or three heads.
    for (const std::int64_t heads : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} norms of {} columns", heads, width));
      if (heads > 1 && width > 100) continue;
      const std::int64_t cols = heads * width;
      auto input = activations(random, Activations::natural, kRows, cols);
      const auto weight = normal(random, width);
      const auto gradient = normal(random, kRows * cols);
      const auto residual = normal(random, kRows * cols);
      const Matrix x(kRows, cols, input);
      const Matrix d_out(kRows, cols, gradient);
      const Matrix plain = reference::rms_norm_backward(x, weight, kEpsilon, width, d_out);
      const Matrix bound = scaled(norm_gradient_size(x, weight, kEpsilon, width, d_out),
                                  4 * norm_bound(width), 1e-30);
      Matrix sum = plain;
      Matrix sum_bound = bound;
      for (std::size_t i = 0; i < sum.data.size(); ++i) {
        sum.data[i] += residual[i];
        sum_bound.data[i] += 2 * kUnit * std::abs(sum.data[i]);
      }
      for (const Backend& backend : backends()) {
        SCOPED_TRACE(backend.name);
        const Bench bench(backend, small_plan(kRows, cols));
        const Vector scale = bench.ops->make_vector(weight);
        DeviceRows in(*bench.ops, kRows, cols);
        DeviceRows d(*bench.ops, kRows, cols, 2);
        DeviceRows before(*bench.ops, kRows, cols);
        DeviceRows out(*bench.ops, kRows, cols, 3);
        in.write(input);
        d.write(gradient);
        before.write(residual);
        const auto actual = call_checked(out, kRows, [&] {
          if (heads == 1) {
            bench.train.rms_norm_backward(in.view(), scale, kEpsilon, d.view(), {}, out.view());
          } else {
            bench.train.head_norm_backward(in.view(), scale, kEpsilon, d.view(), out.view());
          }
        });
        expect_within(actual, kRows, plain, bound);
        if (heads > 1) {
          d.write(gradient);
          bench.train.head_norm_backward(in.view(), scale, kEpsilon, d.view(), d.view());
          EXPECT_EQ(d.read(kRows), actual) << "in place";
          continue;
        }
        bench.train.rms_norm_backward(in.view(), scale, kEpsilon, d.view(), before.view(),
                                      before.view());
        expect_within(before.read(kRows), kRows, sum, sum_bound);
        bench.train.rms_norm_backward(in.view(), scale, kEpsilon, d.view(), {}, d.view());
        EXPECT_EQ(d.read(kRows), actual) << "in place of d_out";
      }
    }
  }
}

class LinearBackwardOfDtype : public testing::TestWithParam<Dtype> {};

TEST_P(LinearBackwardOfDtype, IsTheProductWithTheTransposedMatrix) {
  Random random(83);
  constexpr std::int64_t kCols = 256;
  const Dtype dtype = GetParam();
  // One matrix, more rows than go in one piece, on and off the multiples of 16; and two stacked.
  for (const std::vector<std::int64_t>& bands :
       std::vector<std::vector<std::int64_t>>{{33}, {600}, {20, 48}}) {
    std::vector<StoredMatrix> stored;
    Matrix w;
    Matrix radius;
    for (const std::int64_t rows : bands) {
      stored.push_back(stored_matrix(random, dtype, rows, kCols));
      const StoredMatrix& band = stored.back();
      w.data.insert(w.data.end(), band.values.data.begin(), band.values.data.end());
      radius.data.insert(radius.data.end(), band.k_scale_radius.data.begin(),
                         band.k_scale_radius.data.end());
      w.rows += rows;
    }
    w.cols = kCols;
    radius.rows = radius.data.empty() ? 0 : w.rows;
    radius.cols = kCols;
    const std::int64_t most = 100;
    const auto gradient = normal(random, most * w.rows);
    const Matrix d_out(most, w.rows, gradient);
    const Matrix turned = reference::transposed(w);
    const Matrix expected = reference::multiply(turned, d_out);
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(fmt::format("{}, {} rows", backend.name, w.rows));
      const Matrix turned_radius =
          backend.rounds_k_scales && radius.rows > 0 ? reference::transposed(radius) : kNone;
      const Matrix bound = linear_bound({.a = turned,
                                         .b = kNone,
                                         .x = d_out,
                                         .bias = {},
                                         .residual = kNone,
                                         .a_rounding = backend.training_rounding(dtype),
                                         .b_rounding = Rounding::none,
                                         .a_radius = turned_radius,
                                         .b_radius = kNone,
                                         .a_weight_rounding = backend.training_rounding(dtype)});
      const Bench bench(backend, small_plan(most, std::max(kCols, w.rows)));
      Linear linear;
      std::vector<MatrixSource> sources;
      for (const StoredMatrix& band : stored) sources.push_back(band.source());
      linear.a = bench.ops->make_weight(sources);
      DeviceRows d(*bench.ops, most, w.rows);
      DeviceRows d_x(*bench.ops, most, kCols);
      d.write(gradient);
      for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{7}, most}) {
        const auto actual = call_checked(
            d_x, rows, [&] { bench.train.linear_backward(linear, d.view(rows), d_x.view(rows)); });
        expect_within(actual, rows, expected, bound);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearBackwardOfDtype,
                         testing::Values(Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::q8_0,
                                         Dtype::q4_0, Dtype::q4_1, Dtype::q5_0, Dtype::q5_1,
                                         Dtype::q4_k, Dtype::q5_k, Dtype::q6_k, Dtype::iq4_nl),
                         [](const auto& test) { return std::string(name(test.param)); });

// Odd columns, as only plain types have them, and two factors.
TEST(LinearBackward, OddColumnsAndLowRank) {
  Random random(84);
  constexpr std::int64_t kRows = 25;
  const StoredMatrix a = stored_matrix(random, Dtype::f32, 37, 9);
  const StoredMatrix b = stored_matrix(random, Dtype::f32, 9, 51);
  const auto gradient = normal(random, kRows * 37);
  const Matrix d_out(kRows, 37, gradient);
  const Matrix turned_a = reference::transposed(a.values);
  const Matrix turned_b = reference::transposed(b.values);
  const Matrix middle = reference::multiply(turned_a, d_out);
  const Matrix expected = reference::multiply(turned_b, middle);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    TrainPlan plan = small_plan(kRows, 64);
    plan.max_rank = 9;
    const Bench bench(backend, plan);
    const MatrixSource source_a = a.source();
    const MatrixSource source_b = b.source();
    Linear linear;
    linear.a = bench.ops->make_weight({&source_a, 1});
    linear.b = bench.ops->make_weight({&source_b, 1});
    DeviceRows d(*bench.ops, kRows, 37);
    DeviceRows d_x(*bench.ops, kRows, 51);
    d.write(gradient);
    const auto actual = call_checked(
        d_x, kRows, [&] { bench.train.linear_backward(linear, d.view(), d_x.view()); });
    const Rounding rounding = backend.training_rounding(Dtype::f32);
    const Matrix bound = linear_bound({.a = turned_b,
                                       .b = turned_a,
                                       .x = d_out,
                                       .bias = {},
                                       .residual = kNone,
                                       .a_rounding = rounding,
                                       .b_rounding = rounding,
                                       .a_radius = kNone,
                                       .b_radius = kNone,
                                       .a_weight_rounding = rounding,
                                       .b_weight_rounding = rounding});
    expect_within(actual, kRows, expected, bound);
  }
}

TEST(TrainRope, TurnsThereAndBack) {
  Random random(85);
  struct Case {
    RopeStyle style;
    std::int32_t query_heads, kv_heads, head_dim, dim;
    double magnitude;
    std::int64_t first;
  };
  for (const Case& c : {Case{RopeStyle::neighbours, 4, 2, 64, 64, 1.0, 0},
                        Case{RopeStyle::halves, 3, 1, 80, 20, 1.138, 4000},
                        Case{RopeStyle::neighbours, 1, 1, 10, 6, 1.138, 77}}) {
    constexpr std::int64_t kRows = 30;
    TrainPlan plan = small_plan(kRows, 64);
    plan.attention = {
        .query_heads = c.query_heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .scale = 1};
    plan.rope = {.style = c.style, .dim = c.dim, .inverse_frequency = {}, .magnitude = c.magnitude};
    for (int i = 0; i < c.dim / 2; ++i) {
      plan.rope.inverse_frequency.push_back(std::pow(10000.0, -2.0 * i / c.dim));
    }
    plan.max_context = c.first + kRows;
    const std::int64_t cols = plan.attention.qkv_cols();
    const std::int64_t heads = c.query_heads + c.kv_heads;
    const auto input = normal(random, kRows * cols);
    const Matrix x(kRows, cols, input);
    const Matrix there = reference::rope(plan.rope, heads, c.head_dim, c.first, x);
    const Matrix back = reference::rope_backward(plan.rope, heads, c.head_dim, c.first, x);
    // A pair's length bounds both of its numbers; 12 standard deviations bound that.
    const Matrix bound(kRows, cols, 12 * kRopeBound * c.magnitude);
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(backend.name);
      const Bench bench(backend, plan);
      DeviceRows rows(*bench.ops, kRows, cols);
      const auto restore = [&] { rows.write(input); };
      expect_within(call_checked(
                        rows, kRows, [&] { bench.train.rope(rows.view(), c.first); }, restore),
                    kRows, there, bound);
      expect_within(
          call_checked(
              rows, kRows, [&] { bench.train.rope_backward(rows.view(), c.first); }, restore),
          kRows, back, bound);
    }
  }
}

TEST(SwigluBackward, ManyWidths) {
  Random random(86);
  constexpr std::int64_t kRows = 20;
  for (const std::int64_t width : {1, 8, 17, 100, 1536}) {
    auto input = activations(random, Activations::natural, kRows, 2 * width);
    const float gates[] = {-1000, -104, -88.5f, -20, -1.2784f, 0, 1e-30f, 20, 88, 104, 1000};
    for (std::int64_t i = 0; i < std::min<std::int64_t>(width, std::ssize(gates)); ++i) {
      input[static_cast<std::size_t>(i)] = gates[i];
    }
    const auto gradient = normal(random, kRows * width);
    const Matrix x(kRows, 2 * width, input);
    const Matrix d_out(kRows, width, gradient);
    const Matrix expected = reference::swiglu_backward(x, d_out);
    // The slope of silu is s (1 + gate (1 - s)), where 1 - s may be off by u.
    Matrix bound(kRows, 2 * width);
    for (std::int64_t t = 0; t < kRows; ++t) {
      for (std::int64_t i = 0; i < width; ++i) {
        const double gate = x.at(t, i);
        const double sigmoid = 1 / (1 + std::exp(-gate));
        const double slope = sigmoid * (1 + std::abs(gate) * (1 - sigmoid + kUnit));
        const double up = std::abs(d_out.at(t, i) * x.at(t, width + i));
        bound.at(t, i) =
            2 * kSwigluBound * up * slope + kSwigluFloor * up * (1 + std::abs(gate)) + kSmallest;
        bound.at(t, width + i) = kSwigluBound * std::abs(expected.at(t, width + i)) +
                                 kSwigluFloor * std::abs(d_out.at(t, i) * gate) + kSmallest;
      }
    }
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(fmt::format("{}, width {}", backend.name, width));
      const Bench bench(backend, small_plan(kRows, 2 * width));
      DeviceRows in(*bench.ops, kRows, 2 * width);
      DeviceRows d(*bench.ops, kRows, width);
      DeviceRows out(*bench.ops, kRows, 2 * width);
      in.write(input);
      d.write(gradient);
      const auto actual = call_checked(
          out, kRows, [&] { bench.train.swiglu_backward(in.view(), d.view(), out.view()); });
      expect_within(actual, kRows, expected, bound);
      bench.train.swiglu_backward(in.view(), d.view(), in.view());
      EXPECT_EQ(in.read(kRows), actual) << "in place";
    }
  }
}

struct WindowCase {
  std::int32_t query_heads, kv_heads, head_dim;
  std::int32_t sink, recent;
  std::int64_t rows;
};

void PrintTo(const WindowCase& c, std::ostream* out) { *out << c.rows << " rows"; }

class WindowAttentionCase : public testing::TestWithParam<WindowCase> {};

TEST_P(WindowAttentionCase, ForwardAndBackward) {
  const WindowCase& c = GetParam();
  Random random(87);
  TrainPlan plan = small_plan(c.rows, 64);
  plan.attention = {.query_heads = c.query_heads,
                    .kv_heads = c.kv_heads,
                    .head_dim = c.head_dim,
                    .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
  plan.rope = {};
  const HeadClass window = HeadClass::window(c.sink, 0, c.recent);
  const std::int64_t cols = plan.attention.qkv_cols();
  const std::int64_t out_cols = plan.attention.out_cols();
  // Scores of a standard deviation of 4: some keys weigh most.
  auto input = normal(random, c.rows * cols);
  for (std::int64_t t = 0; t < c.rows; ++t) {
    for (std::int64_t i = 0; i < plan.attention.value_begin(); ++i) input[t * cols + i] *= 2;
  }
  const auto gradient = normal(random, c.rows * out_cols);
  const Matrix qkv(c.rows, cols, input);
  const Matrix d_out(c.rows, out_cols, gradient);
  const auto forward = reference::sequence_attention(plan.attention, window, qkv);
  Matrix magnitude;
  const Matrix d_qkv =
      reference::sequence_attention_backward(plan.attention, window, qkv, d_out, &magnitude);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const Bench bench(backend, plan);
    DeviceRows in(*bench.ops, c.rows, cols);
    DeviceRows out(*bench.ops, c.rows, out_cols);
    DeviceRows lse(*bench.ops, c.rows, c.query_heads);
    DeviceRows d(*bench.ops, c.rows, out_cols);
    DeviceRows d_in(*bench.ops, c.rows, cols);
    in.write(input);
    d.write(gradient);
    const auto attend = [&] {
      bench.train.window_attention(in.view(), window, out.view(), lse.view());
    };
    // A weighted mean of values of about 1; the logarithm of a sum of weights.
    expect_within(call_checked(out, c.rows, attend), c.rows, forward.out,
                  Matrix(c.rows, out_cols, 8 * kAttentionBound));
    expect_within(call_checked(lse, c.rows, attend), c.rows, forward.lse,
                  Matrix(c.rows, c.query_heads, 8 * kAttentionBound));
    const auto actual = call_checked(d_in, c.rows, [&] {
      bench.train.window_attention_backward(in.view(), window, out.view(), lse.view(), d.view(),
                                            d_in.view());
    });
    // Scores of up to about 16 carry their own rounding into every weight.
    expect_within(actual, c.rows, d_qkv, scaled(magnitude, 8 * kAttentionBound, 1e-12));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, WindowAttentionCase,
    testing::Values(WindowCase{4, 2, 12, 2, 5, 1}, WindowCase{4, 2, 12, 2, 5, 40},
                    WindowCase{3, 1, 64, 0, 7, 130}, WindowCase{3, 3, 80, 5, 1, 65},
                    WindowCase{2, 1, 128, 16, 40, 200}, WindowCase{9, 3, 64, 33, 64, 300},
                    WindowCase{4, 1, 16, 300, 10, 200}, WindowCase{4, 1, 16, 3, 300, 200},
                    WindowCase{1, 1, 64, 128, 256, 700}),
    [](const auto& test) {
      const WindowCase& c = test.param;
      return fmt::format("{}x{}x{}_{}_{}_{}", c.query_heads, c.kv_heads, c.head_dim, c.sink,
                         c.recent, c.rows);
    });

TEST(MixHeads, ForwardAndBackward) {
  Random random(88);
  constexpr std::int64_t kRows = 300;
  const AttentionShape shape{.query_heads = 6, .kv_heads = 3, .head_dim = 20, .scale = 1};
  const std::int64_t cols = shape.out_cols();
  const std::vector<float> gates = {0.25f, 1.0f, 0.0f};
  const std::vector<double> gates_f64(gates.begin(), gates.end());
  const auto full = bf16_grid(normal(random, kRows * cols));
  const auto windowed = normal(random, kRows * cols);
  const auto gradient = normal(random, kRows * cols);
  const Matrix full_f64(kRows, cols, full);
  const Matrix windowed_f64(kRows, cols, windowed);
  const Matrix d_out(kRows, cols, gradient);
  const Matrix mixed = reference::mix_heads(gates_f64, full_f64, windowed_f64);
  Matrix before(1, 3, std::vector<float>{1.5f, -2.0f, 0.0f});
  Matrix d_gates = before;
  const Matrix d_windowed =
      reference::mix_heads_backward(gates_f64, full_f64, windowed_f64, d_out, d_gates.data);
  // All products of one sign.
  Matrix most(1, 3, 2.0);
  (void)reference::mix_heads_backward(gates_f64, scaled(full_f64, 1), scaled(windowed_f64, 1),
                                      scaled(d_out, 1), most.data);
  for (std::size_t h = 0; h < 3; ++h) {
    for (std::int64_t t = 0; t < kRows; ++t) {
      for (std::int64_t i = 0; i < 40; ++i) {
        const auto at = static_cast<std::int64_t>(h) * 40 + i;
        most.data[h] += 2 * std::abs(d_out.at(t, at) * windowed_f64.at(t, at));
      }
    }
  }
  const Matrix mixed_bound(kRows, cols, 40 * kUnit);
  for (const Backend& backend : backends()) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
      SCOPED_TRACE(fmt::format("{}, {}", backend.name, name(dtype)));
      TrainPlan plan = small_plan(kRows, cols);
      plan.attention = shape;
      const Bench bench(backend, plan);
      const Stored wide(*bench.ops, bench.train, dtype, kRows, cols, full);
      DeviceRows gate_rows(*bench.ops, 1, 3);
      DeviceRows narrow(*bench.ops, kRows, cols);
      DeviceRows out(*bench.ops, kRows, cols);
      DeviceRows d(*bench.ops, kRows, cols);
      DeviceRows d_gate_rows(*bench.ops, 1, 3);
      gate_rows.write(gates);
      narrow.write(windowed);
      d.write(gradient);
      const auto actual = call_checked(out, kRows, [&] {
        bench.train.mix_heads(gate_rows.view(), wide.rows, narrow.view(), out.view());
      });
      expect_within(actual, kRows, mixed, mixed_bound);
      const auto backward = [&](DeviceRows& to) {
        bench.train.mix_heads_backward(gate_rows.view(), wide.rows, narrow.view(), d.view(),
                                       d_gate_rows.view(), to.view());
      };
      const auto start = [&] { d_gate_rows.write({{1.5f, -2.0f, 0.0f}}); };
      expect_within(call_checked(
                        d_gate_rows, 1, [&] { backward(out); }, start),
                    1, d_gates, scaled(most, f32_growth(kRows * 40)));
      const auto spread = call_checked(
          out, kRows, [&] { backward(out); }, start);
      expect_within(spread, kRows, d_windowed, scaled(d_windowed, 4 * kUnit));
      start();
      backward(d);
      EXPECT_EQ(d.read(kRows), spread) << "in place";
      bench.train.mix_heads(gate_rows.view(), wide.rows, narrow.view(), narrow.view());
      EXPECT_EQ(narrow.read(kRows), actual) << "in place";
    }
  }
}

TEST(MeanSquaredError, LossAndGradient) {
  Random random(89);
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {9, 17}, {40, 576}}) {
    const auto input = normal(random, rows * cols);
    const auto wanted = normal(random, rows * cols, 0.5);
    const Matrix x(rows, cols, input);
    const Matrix target(rows, cols, wanted);
    const Matrix loss(1, 1, reference::mean_squared_error(x, target));
    const Matrix d_x = reference::mean_squared_error_backward(x, target);
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(backend.name);
      const Bench bench(backend, small_plan(rows, cols));
      DeviceRows in(*bench.ops, rows, cols);
      DeviceRows aim(*bench.ops, rows, cols);
      DeviceRows out(*bench.ops, rows, cols);
      DeviceRows sum(*bench.ops, 1, 1);
      in.write(input);
      aim.write(wanted);
      const auto measure = [&](DeviceRows& to) {
        bench.train.mean_squared_error(in.view(), aim.view(), sum.view(), to.view());
      };
      expect_within(call_checked(sum, 1, [&] { measure(out); }), 1, loss,
                    scaled(loss, f32_growth(static_cast<double>(rows * cols))));
      const auto actual = call_checked(out, rows, [&] { measure(out); });
      expect_within(actual, rows, d_x, scaled(d_x, 4 * kUnit));
      measure(in);
      EXPECT_EQ(in.read(rows), actual) << "in place";
    }
  }
}

}  // namespace
}  // namespace sedpa::conformance
