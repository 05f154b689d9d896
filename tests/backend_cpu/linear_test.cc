#include "sedpa/backend/cpu/linear.h"

#include <gtest/gtest.h>

#include <cmath>

#include "sedpa/backend/cpu/panel_format.h"
#include "sedpa/backend/cpu/weights.h"
#include "sedpa/core/error.h"
#include "tests/backend_cpu/random_rows.h"

namespace sedpa::test {
namespace {

Rows rows_of(std::vector<float>& data, std::int64_t rows, std::int64_t cols) {
  return {data.data(), rows, cols, cols};
}

/// What one product of a number of `x` may be off by: half a step of the 15-bit or bf16 rounding of
/// inputs, where the panels of this type take such inputs.
double input_error(cpu::InputForm form, const float* x, std::int64_t cols, std::int64_t k) {
  if (form == cpu::InputForm::f32) return 0;
  if (form == cpu::InputForm::bf16) return std::ldexp(std::fabs(x[k]), -8);
  const std::int64_t begin = k / cpu::kGroup * cpu::kGroup;
  float largest = 0;
  for (std::int64_t i = begin; i < std::min(begin + cpu::kGroup, cols); ++i) {
    largest = std::max(largest, std::fabs(x[i]));
  }
  return largest / (127.0 * 128.0) * 0.501;
}

class LinearOnIsa : public testing::TestWithParam<Isa> {
 protected:
  LinearOnIsa() : pool(2), kernels(cpu::kernels(GetParam())), runner(pool, kernels) {}

  void reserve(std::int64_t tokens, std::int64_t cols, std::int64_t rank = 0) {
    OpsPlan plan;
    plan.max_tokens = tokens;
    plan.max_cols = cols;
    plan.max_rank = rank;
    runner.reserve(plan);
  }
  Weight make(const RandomMatrix& matrix, Compute compute = Compute::fast) {
    const MatrixSource source = matrix.source();
    return cpu::make_weight({&source, 1}, compute, pool, arena);
  }
  /// Holds out [tokens, rows] to the plain product in f64, within what rounding allows.
  void check(const RandomMatrix& matrix, Compute compute, const std::vector<float>& x,
             const std::vector<float>& out, std::int64_t tokens) {
    const Dtype stored = cpu::stored_dtype(matrix.dtype, compute);
    const cpu::InputForm form = kernels.form[static_cast<int>(stored)];
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* xt = x.data() + t * matrix.cols;
      for (std::int64_t r = 0; r < matrix.rows; ++r) {
        const float* w = matrix.numbers.data() + r * matrix.cols;
        double sum = 0;
        double bound = 0;
        for (std::int64_t k = 0; k < matrix.cols; ++k) {
          sum += static_cast<double>(w[k]) * xt[k];
          // Codes and minimums may cancel: what is rounded can be larger than the product.
          const double magnitude = std::fabs(static_cast<double>(w[k]) * xt[k]) + 0.3 * 0.02;
          bound += std::fabs(w[k]) * input_error(form, xt, matrix.cols, k) +
                   magnitude * std::ldexp(static_cast<double>(matrix.cols + 4), -24);
        }
        ASSERT_NEAR(out[static_cast<std::size_t>(t * matrix.rows + r)], sum, bound)
            << name(matrix.dtype) << " token " << t << " of " << tokens << " row " << r;
      }
    }
  }

  ThreadPool pool;
  const cpu::Kernels& kernels;
  cpu::PageArena arena;
  cpu::LinearRunner runner;
};

INSTANTIATE_TEST_SUITE_P(Isas, LinearOnIsa, testing::ValuesIn(usable_isas()),
                         [](const auto& tested) { return std::string(name(tested.param)); });

TEST_P(LinearOnIsa, EveryTypeMatchesThePlainProduct) {
  reserve(64, 512);
  for (const Compute compute : {Compute::fast, Compute::f32}) {
    for (const Dtype dtype : all_dtypes()) {
      const std::int64_t cols = block_size(dtype) == 1 ? 75 : 512;
      const RandomMatrix matrix = random_matrix(dtype, 70, cols, 7);
      const Linear linear{.a = make(matrix, compute), .b = {}, .bias = {}};
      for (const std::int64_t tokens : {1, 2, 3, 5, 7, 12, 13, 31, 64}) {
        std::vector<float> x = random_numbers(static_cast<std::size_t>(tokens * cols), 3);
        std::vector<float> out(static_cast<std::size_t>(tokens * matrix.rows), -1.0f);
        runner.run(linear, rows_of(x, tokens, cols), {}, rows_of(out, tokens, matrix.rows));
        check(matrix, compute, x, out, tokens);
      }
    }
  }
}

// What a token gets must not depend on what else is in the chunk: the same bits whatever the tile.
TEST_P(LinearOnIsa, ATokensResultIsTheSameInEveryChunk) {
  reserve(64, 512);
  for (const Dtype dtype : all_dtypes()) {
    const RandomMatrix matrix = random_matrix(dtype, 50, 256, 5);
    const Linear linear{.a = make(matrix), .b = {}, .bias = {}};
    std::vector<float> x = random_numbers(29 * 256, 9);
    std::vector<float> all(29 * 50);
    runner.run(linear, rows_of(x, 29, 256), {}, rows_of(all, 29, 50));
    for (std::int64_t first = 0; first < 29;) {
      const std::int64_t count = std::min<std::int64_t>(1 + first % 7, 29 - first);
      std::vector<float> part(static_cast<std::size_t>(count * 50));
      runner.run(linear, rows_of(x, 29, 256).range(first, count), {}, rows_of(part, count, 50));
      for (std::size_t i = 0; i < part.size(); ++i) {
        ASSERT_EQ(part[i], all[static_cast<std::size_t>(first * 50) + i]) << name(dtype);
      }
      first += count;
    }
  }
}

TEST_P(LinearOnIsa, BiasAndResidualAreAdded) {
  reserve(20, 64);
  const RandomMatrix matrix = random_matrix(Dtype::f32, 21, 64, 1);
  const std::vector<float> bias = random_numbers(21, 2);
  Linear linear{.a = make(matrix), .b = {}, .bias = {}};
  std::vector<float> x = random_numbers(20 * 64, 3);
  std::vector<float> plain(20 * 21);
  runner.run(linear, rows_of(x, 20, 64), {}, rows_of(plain, 20, 21));
  const std::vector<float> residual = random_numbers(20 * 21, 4);
  std::vector<float> out = residual;
  linear.bias = {.data = bias.data(), .size = 21, .bytes = 84, .storage = {}};
  runner.run(linear, rows_of(x, 20, 64), rows_of(out, 20, 21), rows_of(out, 20, 21));
  for (std::size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(out[i], plain[i] + bias[i % 21] + residual[i]);
  }
}

// Rows with a stride, more tokens than are packed at once, and bands of several types.
TEST_P(LinearOnIsa, BandsBlocksAndStrides) {
  constexpr std::int64_t kTokens = 150;
  constexpr std::int64_t kCols = 8192;
  reserve(kTokens, kCols);
  const RandomMatrix parts[] = {random_matrix(Dtype::q8_0, 5, kCols, 1),
                                random_matrix(Dtype::bf16, 17, kCols, 2),
                                random_matrix(Dtype::q4_1, 16, kCols, 3)};
  const MatrixSource sources[] = {parts[0].source(), parts[1].source(), parts[2].source()};
  const Linear linear{
      .a = cpu::make_weight(sources, Compute::fast, pool, arena), .b = {}, .bias = {}};
  std::vector<float> x = random_numbers(kTokens * (kCols + 3), 3);
  std::vector<float> out(kTokens * 50, -7.0f);
  for (const std::int64_t tokens : {kTokens, std::int64_t{1}}) {
    const Rows xs{x.data(), tokens, kCols, kCols + 3};
    runner.run(linear, xs, {}, {out.data(), tokens, 38, 50});
    std::vector<float> plain_x;
    for (std::int64_t t = 0; t < tokens; ++t) {
      plain_x.insert(plain_x.end(), xs.row(t), xs.row(t) + kCols);
    }
    std::int64_t first = 0;
    for (const RandomMatrix& part : parts) {
      std::vector<float> of_part;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const float* row = out.data() + t * 50 + first;
        of_part.insert(of_part.end(), row, row + part.rows);
      }
      check(part, Compute::fast, plain_x, of_part, tokens);
      first += part.rows;
    }
    for (std::int64_t t = 0; t < tokens; ++t)
      ASSERT_EQ(out[static_cast<std::size_t>(t * 50 + 38)], -7.0f);
  }
}

TEST_P(LinearOnIsa, LowRankIsTwoProducts) {
  reserve(30, 96, 20);
  const RandomMatrix a = random_matrix(Dtype::f16, 40, 20, 1);
  const RandomMatrix b = random_matrix(Dtype::f32, 20, 96, 2);
  const Linear both{.a = make(a), .b = make(b), .bias = {}};
  const Linear first{.a = make(b), .b = {}, .bias = {}};
  const Linear second{.a = make(a), .b = {}, .bias = {}};
  std::vector<float> x = random_numbers(30 * 96, 3);
  std::vector<float> middle(30 * 20);
  std::vector<float> want(30 * 40);
  std::vector<float> out(30 * 40);
  runner.run(first, rows_of(x, 30, 96), {}, rows_of(middle, 30, 20));
  runner.run(second, rows_of(middle, 30, 20), {}, rows_of(want, 30, 40));
  runner.run(both, rows_of(x, 30, 96), {}, rows_of(out, 30, 40));
  EXPECT_EQ(out, want);
}

TEST_P(LinearOnIsa, ZerosAndHugeInputs) {
  reserve(2, 64);
  const RandomMatrix matrix = random_matrix(Dtype::q4_0, 16, 64, 1);
  const Linear linear{.a = make(matrix), .b = {}, .bias = {}};
  std::vector<float> x(128, 0.0f);
  std::fill(x.begin() + 64, x.end(), 1e30f);
  std::vector<float> out(32, 5.0f);
  runner.run(linear, rows_of(x, 2, 64), {}, rows_of(out, 2, 16));
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(out[i], 0.0f);
  for (std::size_t i = 16; i < 32; ++i) EXPECT_TRUE(std::isfinite(out[i]));
}

TEST_P(LinearOnIsa, RefusesWrongShapes) {
  reserve(4, 64);
  const RandomMatrix matrix = random_matrix(Dtype::f32, 16, 64, 1);
  const Linear linear{.a = make(matrix), .b = {}, .bias = {}};
  std::vector<float> x(64 * 8);
  std::vector<float> out(16 * 8);
  EXPECT_THROW(runner.run(linear, rows_of(x, 1, 63), {}, rows_of(out, 1, 16)), Error);
  EXPECT_THROW(runner.run(linear, rows_of(x, 1, 64), {}, rows_of(out, 1, 15)), Error);
  EXPECT_THROW(runner.run(linear, rows_of(x, 2, 64), {}, rows_of(out, 1, 16)), Error);
  EXPECT_THROW(runner.run(linear, rows_of(x, 5, 64), {}, rows_of(out, 5, 16)), Error);
}

}  // namespace
}  // namespace sedpa::test
