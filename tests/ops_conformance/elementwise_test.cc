// embed, rms_norm, head_norm, rope and swiglu.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "tests/ops_conformance/device.h"
#include "tests/ops_conformance/inputs.h"
#include "tests/ops_conformance/sequence.h"

namespace sedpa::conformance {
namespace {

constexpr std::int64_t kTokenCounts[] = {1, 2, 7, 12, 13, 64, 100};

/// A sequence whose cache is next to nothing, at any length.
SequenceConfig small_sequence(std::int64_t context, std::int64_t max_tokens) {
  SequenceConfig config;
  config.attention = {.query_heads = 1, .kv_heads = 1, .head_dim = 16, .scale = 0.25f};
  config.rope = {.dim = 16, .inverse_frequency = std::vector<double>(8, 1.0)};
  config.geometry = {.plan = HeadPlan::uniform(1, 1, HeadClass::window(1, 0, 4)),
                     .context = context,
                     .head_dim = 16,
                     .dtype = KvDtype::f16};
  config.geometry.plan.classes[kStreaming] = HeadClass::window(1, 0, 4);
  config.max_tokens = max_tokens;
  return config;
}

/// |expected| * relative, at least `floor`.
Matrix relative_bound(const Matrix& expected, double relative, double floor = 0) {
  Matrix bound = expected;
  for (double& b : bound.data) b = std::abs(b) * relative + floor;
  return bound;
}

class EmbedOfDtype : public testing::TestWithParam<Dtype> {};

TEST_P(EmbedOfDtype, GivesTheRowsOfTheTable) {
  constexpr std::int64_t kVocabulary = 37;
  Random random(21);
  const StoredMatrix table = stored_matrix(random, GetParam(), kVocabulary, 256);
  // The last row, the first, repeats, and all the others.
  std::vector<std::int32_t> ids = {36, 0, 0, 16, 15};
  for (std::int32_t i = 0; i < kVocabulary; ++i) ids.push_back(i);
  const Matrix expected = reference::embed(table.values, ids);

  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    // Scale times code plus min, in any order; plain numbers are not touched.
    Matrix bound(expected.rows, expected.cols);
    for (std::int64_t t = 0; t < bound.rows && block_size(GetParam()) > 1; ++t) {
      for (std::int64_t k = 0; k < bound.cols; ++k) {
        // The terms of a number with a min may each be up to 16 times larger than it.
        bound.at(t, k) = 2 * kUnit * (std::abs(expected.at(t, k)) + 0.125);
        if (backend.rounds_k_scales && table.k_scale_radius.rows > 0) {
          bound.at(t, k) += table.k_scale_radius.at(ids[t], k);
        }
      }
    }
    Sequence sequence(backend, small_sequence(64, 64));
    const MatrixSource source = table.source();
    const Weight weight = sequence.ops().make_weight({&source, 1});
    DeviceRows out(sequence.ops(), expected.rows, 256);
    for (std::int64_t tokens : {std::int64_t{1}, expected.rows}) {
      sequence.begin(std::span(ids).first(static_cast<std::size_t>(tokens)));
      const auto actual = run_checked(sequence.ops(), out, tokens,
                                      [&] { sequence.ops().embed(weight, out.view(tokens)); });
      expect_within(actual, tokens, expected, bound);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EmbedOfDtype,
                         testing::Values(Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::q8_0,
                                         Dtype::q4_0, Dtype::q4_1, Dtype::q5_0, Dtype::q5_1,
                                         Dtype::q4_k, Dtype::q5_k, Dtype::q6_k, Dtype::iq4_nl),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST(RmsNorm, ManyWidths) {
  Random random(22);
  for (std::int64_t cols : {1, 5, 16, 64, 100, 576, 4099}) {
    SCOPED_TRACE(fmt::format("{} columns", cols));
    const auto input = activations(random, Activations::natural, 100, cols);
    const auto weight = normal(random, cols);
    constexpr float kEpsilon = 1e-5f;
    const Matrix expected = reference::rms_norm(Matrix(100, cols, input), weight, kEpsilon, cols);
    const Matrix bound = relative_bound(expected, norm_bound(cols));
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(backend.name);
      Sequence sequence(backend, small_sequence(128, 128));
      Ops& ops = sequence.ops();
      const Vector scale = ops.make_vector(weight);
      DeviceRows in(ops, 100, cols);
      DeviceRows out(ops, 100, cols, 3);
      in.write(input);
      for (std::int64_t tokens : kTokenCounts) {
        if (tokens > 13 && cols > 1000) continue;
        const auto actual = run_checked(ops, out, tokens, [&] {
          ops.rms_norm(in.view(tokens), scale, kEpsilon, out.view(tokens));
        });
        expect_within(actual, tokens, expected, bound);
        out.write(input);
        run(ops, tokens,
            [&] { ops.rms_norm(out.view(tokens), scale, kEpsilon, out.view(tokens)); });
        EXPECT_EQ(out.read(tokens), actual) << "in place";
      }
    }
  }
}

// Rows so small that eps decides, and so large that f32 squares are near their end.
TEST(RmsNorm, ExtremeRows) {
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    Sequence sequence(backend, small_sequence(8, 8));
    Ops& ops = sequence.ops();
    std::vector<float> input(3 * 64, 0.0f);
    for (int k = 0; k < 64; ++k) input[64 + k] = 1e-12f * static_cast<float>(k - 20);
    for (int k = 0; k < 64; ++k) input[128 + k] = 1e17f * static_cast<float>(k - 20);
    const std::vector<float> weight(64, 1.5f);
    const Matrix expected = reference::rms_norm(Matrix(3, 64, input), weight, 1e-6f, 64);
    DeviceRows rows(ops, 3, 64);
    const Vector scale = ops.make_vector(weight);
    const auto actual = run_checked(
        ops, rows, 3, [&] { ops.rms_norm(rows.view(), scale, 1e-6f, rows.view()); },
        [&] { rows.write(input); });
    expect_within(actual, 3, expected, relative_bound(expected, norm_bound(64)));
  }
}

TEST(HeadNorm, ManyHeadSizes) {
  Random random(23);
  for (std::int64_t dim : {16, 24, 64, 80, 128}) {
    SCOPED_TRACE(fmt::format("head size {}", dim));
    const std::int64_t cols = 3 * dim;
    const auto input = activations(random, Activations::natural, 100, cols);
    const auto weight = normal(random, dim);
    const Matrix expected = reference::rms_norm(Matrix(100, cols, input), weight, 1e-6f, dim);
    const Matrix bound = relative_bound(expected, norm_bound(dim));
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(backend.name);
      Sequence sequence(backend, small_sequence(128, 128));
      Ops& ops = sequence.ops();
      const Vector scale = ops.make_vector(weight);
      DeviceRows in(ops, 100, cols);
      DeviceRows out(ops, 100, cols);
      in.write(input);
      for (std::int64_t tokens : {1, 2, 13, 100}) {
        const auto actual = run_checked(ops, out, tokens, [&] {
          ops.head_norm(in.view(tokens), scale, 1e-6f, out.view(tokens));
        });
        expect_within(actual, tokens, expected, bound);
        out.write(input);
        run(ops, tokens, [&] { ops.head_norm(out.view(tokens), scale, 1e-6f, out.view(tokens)); });
        EXPECT_EQ(out.read(tokens), actual) << "in place";
      }
    }
  }
}

struct RopeCase {
  RopeStyle style;
  std::int32_t query_heads, kv_heads, head_dim, dim;
  double magnitude;
  std::int64_t past;
};

TEST(Rope, BothStylesAnywhere) {
  Random random(24);
  const RopeCase cases[] = {
      {RopeStyle::neighbours, 4, 2, 64, 64, 1.0, 0},
      {RopeStyle::halves, 4, 2, 64, 64, 1.0, 0},
      {RopeStyle::neighbours, 3, 1, 80, 80, 1.0, 4095},
      {RopeStyle::halves, 3, 3, 96, 96, 1.0, 4095},
      {RopeStyle::neighbours, 2, 1, 64, 32, 1.0, 77},  // part of a head turns
      {RopeStyle::halves, 2, 1, 80, 20, 1.0, 77},
      {RopeStyle::neighbours, 1, 1, 10, 6, 1.138, 131072},
      {RopeStyle::halves, 5, 1, 128, 128, 1.138, 131072},
      // Far out: angles formed in f32 would be off by several hundredths of a turn.
      {RopeStyle::neighbours, 2, 2, 64, 64, 1.0, 1000000},
      {RopeStyle::halves, 2, 2, 64, 64, 1.0, 1000000},
  };
  for (const RopeCase& c : cases) {
    SCOPED_TRACE(fmt::format("style {}, head size {}, {} turn, past {}", int(c.style), c.head_dim,
                             c.dim, c.past));
    constexpr std::int64_t kTokens = 30;
    SequenceConfig config = small_sequence(c.past + kTokens, kTokens);
    config.attention = {.query_heads = c.query_heads,
                        .kv_heads = c.kv_heads,
                        .head_dim = c.head_dim,
                        .scale = 1.0f};
    config.rope = {
        .style = c.style, .dim = c.dim, .inverse_frequency = {}, .magnitude = c.magnitude};
    for (int i = 0; i < c.dim / 2; ++i) {
      config.rope.inverse_frequency.push_back(std::pow(10000.0, -2.0 * i / c.dim));
    }
    config.geometry.head_dim = c.head_dim;
    config.geometry.plan = HeadPlan::uniform(1, c.kv_heads, HeadClass::window(1, 0, 4));
    config.geometry.plan.classes[kStreaming] = HeadClass::window(1, 0, 4);

    const LayerShape shape = LayerShape::plain(config.attention);
    const std::int64_t cols = config.attention.qkv_cols();
    const std::int64_t heads = c.query_heads + c.kv_heads;
    const auto input = normal(random, kTokens * cols);
    const Matrix qkv(kTokens, cols, input);
    const Matrix expected = reference::rope(config.rope, heads, c.head_dim, c.past, qkv);
    // Both numbers of a pair bound each; what does not turn is not touched.
    Matrix bound(kTokens, cols);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t i = 0; i < heads * c.head_dim; ++i) {
        const std::int64_t in_head = i % c.head_dim;
        if (in_head >= c.dim) continue;
        const std::int64_t half = c.dim / 2;
        const std::int64_t partner = c.style == RopeStyle::neighbours
                                         ? (in_head ^ 1)
                                         : (in_head < half ? in_head + half : in_head - half);
        bound.at(t, i) = kRopeBound * c.magnitude *
                         (std::abs(qkv.at(t, i)) + std::abs(qkv.at(t, i - in_head + partner)));
      }
    }
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(backend.name);
      Sequence sequence(backend, config);
      sequence.cache().restore(c.past);
      DeviceRows rows(sequence.ops(), kTokens, cols);
      for (std::int64_t tokens : {std::int64_t{1}, std::int64_t{7}, kTokens}) {
        sequence.begin(tokens);
        std::vector<float> first;
        for (int repeat = 0; repeat < 2; ++repeat) {
          rows.write(input);
          run(sequence.ops(), tokens, [&] { sequence.ops().rope(rows.view(tokens), shape); });
          EXPECT_EQ(rows.damage(kTokens), "");
          const auto actual = rows.read(kTokens);
          expect_within(actual, tokens, expected, bound);
          for (std::int64_t i = tokens * cols; i < kTokens * cols; ++i) {
            ASSERT_EQ(actual[i], input[i]) << "a row beyond the view";
          }
          EXPECT_TRUE(repeat == 0 || actual == first) << "a second run gives other bits";
          first = actual;
        }
      }
    }
  }
}

// Thin heads: pairs turn by the angles of the planes that their head has kept.
TEST(Rope, KeptPlanes) {
  Random random(26);
  constexpr std::int32_t kHeadDim = 64;
  constexpr std::int64_t kTokens = 20;
  constexpr std::int64_t kPast = 131000;
  for (const std::int32_t group : {1, 3}) {
    for (const RopeStyle style : {RopeStyle::neighbours, RopeStyle::halves}) {
      SCOPED_TRACE(fmt::format("style {}, groups of {}", int(style), group));
      const std::vector<HeadWidths> widths = {{48, 64}, {64, 16}, {16, 32}, {32, 48}};
      LayerShape shape = LayerShape::of(group, widths);
      const auto heads = static_cast<std::int32_t>(widths.size());
      SequenceConfig config = small_sequence(kPast + kTokens, kTokens);
      config.attention = {
          .query_heads = group * heads, .kv_heads = heads, .head_dim = kHeadDim, .scale = 1.0f};
      config.rope = {.style = style, .dim = kHeadDim, .inverse_frequency = {}, .magnitude = 1.138};
      for (int i = 0; i < kHeadDim / 2; ++i) {
        config.rope.inverse_frequency.push_back(std::pow(10000.0, -2.0 * i / kHeadDim));
      }
      config.geometry.head_dim = kHeadDim;
      config.geometry.widths = widths;
      config.geometry.plan = HeadPlan::uniform(1, heads, HeadClass::window(1, 0, 4));
      config.geometry.plan.classes[kStreaming] = HeadClass::window(1, 0, 4);

      // Some of the planes, ascending; what stands behind them is never asked for.
      std::vector<std::vector<std::uint8_t>> planes;
      std::vector<std::uint8_t> stored(static_cast<std::size_t>(heads * kHeadDim / 2), 255);
      for (std::int32_t h = 0; h < heads; ++h) {
        std::vector<std::uint8_t> all(kHeadDim / 2);
        std::iota(all.begin(), all.end(), std::uint8_t{0});
        std::vector<std::uint8_t>& kept = planes.emplace_back();
        std::sample(all.begin(), all.end(), std::back_inserter(kept), shape.heads[h].key_dim / 2,
                    random);
        std::copy(kept.begin(), kept.end(), stored.begin() + h * kHeadDim / 2);
      }

      const auto input = normal(random, kTokens * shape.qkv_cols);
      const Matrix qkv(kTokens, shape.qkv_cols, input);
      const Matrix expected =
          reference::rope_of_planes(config.rope, shape, group, planes, kPast, qkv);
      Matrix bound(kTokens, shape.qkv_cols);  // values: not touched
      for (std::int64_t t = 0; t < kTokens; ++t) {
        for (std::int64_t i = 0; i < shape.value_begin; ++i) {
          ASSERT_LT(std::abs(qkv.at(t, i)), 8);
          bound.at(t, i) = kRopeBound * config.rope.magnitude * (8 + 8);  // of both of a pair
        }
      }
      for (const Backend& backend : backends()) {
        SCOPED_TRACE(backend.name);
        Sequence sequence(backend, config);
        sequence.cache().restore(kPast);
        const Buffer memory = sequence.ops().allocate(stored.size());
        sequence.ops().copy_from_host(reinterpret_cast<const std::byte*>(stored.data()),
                                      memory.data, stored.size());
        shape.planes = reinterpret_cast<const std::uint8_t*>(memory.data);
        DeviceRows rows(sequence.ops(), kTokens, shape.qkv_cols);
        for (std::int64_t tokens : {std::int64_t{1}, std::int64_t{7}, kTokens}) {
          sequence.begin(tokens);
          rows.write(input);
          run(sequence.ops(), tokens, [&] { sequence.ops().rope(rows.view(tokens), shape); });
          EXPECT_EQ(rows.damage(kTokens), "");
          expect_within(rows.read(kTokens), tokens, expected, bound);
        }
      }
    }
  }
}

TEST(Swiglu, ManyWidths) {
  Random random(25);
  for (std::int64_t width : {1, 8, 17, 100, 1536}) {
    SCOPED_TRACE(fmt::format("width {}", width));
    constexpr std::int64_t kRows = 100;
    auto input = activations(random, Activations::natural, kRows, 2 * width);
    // Gates where exp overflows, underflows and is all there is.
    const float gates[] = {-1000, -104, -88.5f, -87, -20, -1e-30f, 0, 1e-30f, 20, 88, 104, 1000};
    for (std::int64_t i = 0; i < std::min<std::int64_t>(width, 12); ++i) {
      input[static_cast<std::size_t>(i)] = gates[i];
    }
    const Matrix gate_up(kRows, 2 * width, input);
    const Matrix expected = reference::swiglu(gate_up);
    Matrix bound(kRows, width);
    for (std::int64_t t = 0; t < kRows; ++t) {
      for (std::int64_t i = 0; i < width; ++i) {
        bound.at(t, i) = kSwigluBound * std::abs(expected.at(t, i)) +
                         kSwigluFloor * std::abs(gate_up.at(t, i) * gate_up.at(t, width + i));
      }
    }
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(backend.name);
      Sequence sequence(backend, small_sequence(128, 128));
      Ops& ops = sequence.ops();
      DeviceRows in(ops, kRows, 2 * width);
      DeviceRows out(ops, kRows, width);
      in.write(input);
      for (std::int64_t tokens : kTokenCounts) {
        if (tokens > 13 && width > 1000) continue;
        const auto actual =
            run_checked(ops, out, tokens, [&] { ops.swiglu(in.view(tokens), out.view(tokens)); });
        expect_within(actual, tokens, expected, bound);
      }
    }
  }
}

// Whatever was there, numbers that are none included; nothing beside it.
TEST(Clear, MakesEveryNumberOfAViewZero) {
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    for (const std::int64_t tokens : {1, 2, 33}) {
      Sequence sequence(backend, small_sequence(64, 64));
      DeviceRows out(sequence.ops(), tokens, 48);
      const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens), 0);
      sequence.begin(ids);
      const auto actual =
          run_checked(sequence.ops(), out, tokens, [&] { sequence.ops().clear(out.view(tokens)); });
      EXPECT_EQ(actual, std::vector<float>(static_cast<std::size_t>(tokens * 48), 0.0f));
    }
  }
}

}  // namespace
}  // namespace sedpa::conformance
