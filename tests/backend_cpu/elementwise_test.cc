#include "sedpa/backend/cpu/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "sedpa/backend/cpu/weights.h"
#include "sedpa/core/error.h"
#include "tests/backend_cpu/random_rows.h"

namespace sedpa::test {
namespace {

OpsPlan small_plan(RopeStyle style) {
  OpsPlan plan;
  plan.attention = {.query_heads = 4, .kv_heads = 2, .head_dim = 16, .scale = 0.25f};
  plan.rope = {.style = style,
               .dim = 12,
               .inverse_frequency = {1, 0.5, 0.25, 0.1, 0.01, 1e-4},
               .magnitude = 1.25};
  plan.max_tokens = 300;
  return plan;
}

TEST(Elementwise, RopeAtAnyPositionWithNumbersThatPass) {
  ThreadPool pool(2);
  cpu::ElementwiseRunner runner(pool, cpu::kernels(best_isa()));
  for (const RopeStyle style : {RopeStyle::neighbours, RopeStyle::halves}) {
    const OpsPlan plan = small_plan(style);
    runner.reserve(plan);
    constexpr std::int64_t kPast = 1000003;
    const std::vector<std::int32_t> tokens(300, 0);
    runner.begin_step({.tokens = tokens, .past = kPast});
    const std::int64_t cols = plan.attention.qkv_cols();
    const std::vector<float> before = random_numbers(static_cast<std::size_t>(300 * cols), 5);
    std::vector<float> qkv = before;
    runner.rope({qkv.data(), 300, cols, cols}, LayerShape::plain(plan.attention));
    for (std::int64_t t = 0; t < 300; ++t) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const std::int64_t at = c % 16;
        const std::int64_t begin = t * cols + c - at;  // of the head
        double want = before[static_cast<std::size_t>(t * cols + c)];
        if (c < 6 * 16 && at < 12) {
          const bool halves = style == RopeStyle::halves;
          const std::int64_t pair = halves ? at % 6 : at / 2;
          const bool second = halves ? at >= 6 : at % 2 == 1;
          const std::int64_t a = begin + (halves ? pair : 2 * pair);
          const std::int64_t b = begin + (halves ? pair + 6 : 2 * pair + 1);
          const double angle = static_cast<double>(kPast + t) *
                               plan.rope.inverse_frequency[static_cast<std::size_t>(pair)];
          const double xa = before[static_cast<std::size_t>(a)];
          const double xb = before[static_cast<std::size_t>(b)];
          want = 1.25 * (second ? xa * std::sin(angle) + xb * std::cos(angle)
                                : xa * std::cos(angle) - xb * std::sin(angle));
        }
        ASSERT_NEAR(qkv[static_cast<std::size_t>(t * cols + c)], want, 2e-6) << t << " " << c;
      }
    }
  }
}

TEST(Elementwise, EmbedTakesTheStepsRows) {
  ThreadPool pool(2);
  cpu::ElementwiseRunner runner(pool, cpu::kernels(best_isa()));
  runner.reserve(small_plan(RopeStyle::halves));
  cpu::PageArena arena;
  const RandomMatrix matrix = random_matrix(Dtype::q8_0, 50, 64, 1);
  const MatrixSource source = matrix.source();
  const Weight table = cpu::make_weight({&source, 1}, Compute::fast, pool, arena);
  const std::vector<std::int32_t> tokens = {49, 0, 17};
  runner.begin_step({.tokens = tokens, .past = 0});
  std::vector<float> out(3 * 64);
  runner.embed(table, {out.data(), 3, 64, 64});
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i], matrix.numbers[static_cast<std::size_t>(tokens[i / 64]) * 64 + i % 64]);
  }
  for (const std::int32_t bad : {-1, 50}) {
    const std::vector<std::int32_t> wrong = {1, bad};
    runner.begin_step({.tokens = wrong, .past = 0});
    EXPECT_THROW(runner.embed(table, {out.data(), 2, 64, 64}), Error);
  }
}

TEST(Elementwise, HeadNormIsANormOfEachHead) {
  ThreadPool pool(1);
  const cpu::Kernels& kernels = cpu::kernels(best_isa());
  cpu::ElementwiseRunner runner(pool, kernels);
  const std::vector<float> weight = random_numbers(16, 1);
  const Vector vector{.data = weight.data(), .size = 16, .bytes = 64, .storage = {}};
  std::vector<float> x = random_numbers(5 * 48, 2);
  std::vector<float> want = x;
  for (std::size_t at = 0; at < want.size(); at += 16) {
    kernels.rms_norm(want.data() + at, weight.data(), 16, 1e-6f, want.data() + at);
  }
  const Rows rows{x.data(), 5, 48, 48};
  runner.head_norm(rows, vector, 1e-6f, rows);
  EXPECT_EQ(x, want);
}

TEST(Elementwise, RefusesStepsAndPlansThatDoNotFit) {
  ThreadPool pool(1);
  cpu::ElementwiseRunner runner(pool, cpu::kernels(best_isa()));
  OpsPlan plan = small_plan(RopeStyle::halves);
  runner.reserve(plan);
  const std::vector<std::int32_t> tokens(301, 0);
  EXPECT_THROW(runner.begin_step({.tokens = tokens, .past = 0}), Error);
  plan.rope.dim = 18;
  EXPECT_THROW(runner.reserve(plan), Error);
}

}  // namespace
}  // namespace sedpa::test
