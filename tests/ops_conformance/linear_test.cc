// linear, linear_add, and what becomes of a stored matrix: every element type, shapes on and off
// the multiples of 16, many token counts, low rank, bias, stacked bands.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "tests/ops_conformance/device.h"
#include "tests/ops_conformance/inputs.h"

namespace sedpa::conformance {
namespace {

constexpr Dtype kAllDtypes[] = {Dtype::f32,  Dtype::f16,  Dtype::bf16, Dtype::q8_0,
                                Dtype::q4_0, Dtype::q4_1, Dtype::q5_0, Dtype::q5_1,
                                Dtype::q4_k, Dtype::q5_k, Dtype::q6_k, Dtype::iq4_nl};
const Matrix kNone;

std::unique_ptr<Ops> make(const Backend& backend, std::int64_t tokens, std::int64_t cols,
                          std::int64_t rank) {
  auto ops = backend.make();
  const HeadPlan heads = HeadPlan::uniform(1, 1, HeadClass{});
  OpsPlan plan;
  plan.attention = {.query_heads = 1, .kv_heads = 1, .head_dim = 16, .scale = 0.25f};
  plan.rope = {.dim = 16, .inverse_frequency = std::vector<double>(8, 1.0)};
  plan.max_tokens = tokens;
  plan.max_context = tokens;
  plan.max_cols = cols;
  plan.max_rank = rank;
  plan.heads = &heads;
  ops->reserve(plan);
  return ops;
}

/// One y = W x: bands stacked into `a`, perhaps `b`, bias and residual.
struct LinearCase {
  std::vector<StoredMatrix> a;
  std::vector<StoredMatrix> b;  // empty or one
  bool with_bias = false;
  bool with_residual = false;
  Activations kind = Activations::natural;
  std::vector<std::int64_t> tokens;  // the largest last
};

Matrix stack(const std::vector<StoredMatrix>& bands, bool radius) {
  Matrix all;
  for (const StoredMatrix& band : bands) {
    Matrix part = radius ? band.k_scale_radius : band.values;
    if (part.rows == 0) part = Matrix(band.values.rows, band.values.cols);
    all.rows += part.rows;
    all.cols = part.cols;
    all.data.insert(all.data.end(), part.data.begin(), part.data.end());
  }
  return all;
}

/// Rows of a matrix, or of its bound, band by band: each may have its own rounding.
void take_columns(const Matrix& from, std::int64_t begin, Matrix& to) {
  for (std::int64_t t = 0; t < from.rows; ++t) {
    for (std::int64_t r = 0; r < from.cols; ++r) to.at(t, begin + r) = from.at(t, r);
  }
}

/// The bound of a case on a backend.
Matrix case_bound(const Backend& backend, const LinearCase& c, const Matrix& x,
                  std::span<const float> bias, const Matrix& residual) {
  const Matrix b = stack(c.b, false);
  const Matrix b_radius = backend.rounds_k_scales && !c.b.empty() ? stack(c.b, true) : kNone;
  std::int64_t rows = 0;
  for (const StoredMatrix& band : c.a) rows += band.values.rows;
  Matrix bound(x.rows, rows);
  std::int64_t first = 0;
  for (const StoredMatrix& band : c.a) {
    const auto count = static_cast<std::size_t>(band.values.rows);
    const auto begin = static_cast<std::size_t>(first);
    Matrix part_residual;
    if (residual.rows > 0) {
      part_residual = Matrix(x.rows, band.values.rows);
      for (std::int64_t t = 0; t < x.rows; ++t) {
        std::copy_n(residual.row(t) + first, count, part_residual.row(t));
      }
    }
    const Matrix part = linear_bound(
        {.a = band.values,
         .b = b,
         .x = x,
         .bias = bias.empty() ? bias : bias.subspan(begin, count),
         .residual = part_residual,
         .a_rounding = backend.linear_rounding(band.dtype),
         .b_rounding = c.b.empty() ? Rounding::none : backend.linear_rounding(c.b[0].dtype),
         .a_radius = backend.rounds_k_scales ? band.k_scale_radius : kNone,
         .b_radius = b_radius,
         .a_weight_rounding = backend.weight_rounding(band.dtype),
         .b_weight_rounding =
             c.b.empty() ? Rounding::none : backend.weight_rounding(c.b[0].dtype)});
    take_columns(part, first, bound);
    first += band.values.rows;
  }
  return bound;
}

/// What makes two backends share a bound.
std::string bound_key(const Backend& backend, const LinearCase& c) {
  std::string key = backend.rounds_k_scales ? "k" : "-";
  for (const auto* bands : {&c.a, &c.b}) {
    for (const auto& band : *bands) {
      key += fmt::format("{}{}", int(backend.linear_rounding(band.dtype)),
                         int(backend.weight_rounding(band.dtype)));
    }
  }
  return key;
}

Weight make_weight(Ops& ops, const std::vector<StoredMatrix>& bands) {
  std::vector<MatrixSource> sources;
  std::size_t bytes = 0;
  for (const StoredMatrix& band : bands) {
    sources.push_back(band.source());
    bytes += ops.weight_bytes(band.dtype, band.values.rows, band.values.cols);
  }
  Weight weight = ops.make_weight(sources);
  EXPECT_EQ(weight.bytes, bytes) << "allocated and planned";
  EXPECT_EQ(weight.cols, bands.front().values.cols);
  std::int64_t rows = 0;
  for (const WeightBand& band : weight.bands) {
    EXPECT_EQ(band.first_row, rows);
    rows += band.rows;
  }
  EXPECT_EQ(weight.rows, rows);
  return weight;
}

void check(Random& random, const LinearCase& c) {
  const Matrix a = stack(c.a, false);
  const Matrix b = stack(c.b, false);
  const std::int64_t cols = c.b.empty() ? a.cols : b.cols;
  const std::int64_t most = c.tokens.back();
  const auto input = activations(random, c.kind, most, cols);
  const auto bias = c.with_bias ? normal(random, a.rows) : std::vector<float>{};
  const auto added = c.with_residual ? normal(random, most * a.rows) : std::vector<float>{};
  const Matrix x(most, cols, input);
  const Matrix residual = c.with_residual ? Matrix(most, a.rows, added) : Matrix();
  const Matrix expected = reference::linear(a, b, x, bias, residual);
  std::map<std::string, Matrix> bounds;

  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const std::string key = bound_key(backend, c);
    if (!bounds.contains(key)) bounds[key] = case_bound(backend, c, x, bias, residual);

    const auto ops = make(backend, most, std::max(cols, a.cols), c.b.empty() ? 0 : a.cols);
    Linear linear;
    linear.a = make_weight(*ops, c.a);
    if (!c.b.empty()) linear.b = make_weight(*ops, c.b);
    if (c.with_bias) linear.bias = ops->make_vector(bias);
    DeviceRows in(*ops, most, cols);
    in.write(input);
    DeviceRows out(*ops, most, a.rows);
    DeviceRows other(*ops, most, a.rows, 0);
    for (std::int64_t tokens : c.tokens) {
      SCOPED_TRACE(fmt::format("{} tokens", tokens));
      if (!c.with_residual) {
        const auto actual = run_checked(
            *ops, out, tokens, [&] { ops->linear(linear, in.view(tokens), out.view(tokens)); });
        expect_within(actual, tokens, expected, bounds[key]);
        if (tokens == 1) {
          // A row that begins at 16 bytes may go another way.
          DeviceRows aligned(*ops, 1, cols, 8);
          aligned.write(std::span(input).first(static_cast<std::size_t>(cols)));
          expect_within(
              run_checked(*ops, out, 1, [&] { ops->linear(linear, aligned.view(), out.view(1)); }),
              1, expected, bounds[key]);
        }
        continue;
      }
      other.write(added);
      const auto apart = run_checked(*ops, out, tokens, [&] {
        ops->linear_add(linear, in.view(tokens), other.view(tokens), out.view(tokens));
      });
      expect_within(apart, tokens, expected, bounds[key]);
      // In place, as the forward pass has it.
      run(*ops, tokens, [&] {
        ops->linear_add(linear, in.view(tokens), other.view(tokens), other.view(tokens));
      });
      EXPECT_EQ(other.read(tokens), apart);
    }
  }
}

std::vector<std::int64_t> shapes_cols(Dtype dtype) {
  switch (block_size(dtype)) {
    case 1:
      return {1, 17, 40, 100, 577};
    case 32:
      return {32, 96, 608};
    default:
      return {256, 768};
  }
}

class LinearOfDtype : public testing::TestWithParam<Dtype> {};

TEST_P(LinearOfDtype, ManyShapes) {
  Random random(11);
  constexpr std::int64_t kRows[] = {17, 100, 16, 1, 33};
  int i = 0;
  for (std::int64_t cols : shapes_cols(GetParam())) {
    const std::int64_t rows = kRows[i++ % 5];
    for (Activations kind : {Activations::natural, Activations::lattice}) {
      SCOPED_TRACE(fmt::format("{} x {}, inputs {}", rows, cols, int(kind)));
      LinearCase c;
      c.a.push_back(stored_matrix(random, GetParam(), rows, cols));
      c.kind = kind;
      c.tokens = {1, 2, 13};
      check(random, c);
    }
  }
}

TEST_P(LinearOfDtype, ManyTokenCounts) {
  Random random(12);
  const std::int64_t cols = block_size(GetParam()) == 1    ? 72
                            : block_size(GetParam()) == 32 ? 96
                                                           : 256;
  for (Activations kind : {Activations::natural, Activations::lattice}) {
    SCOPED_TRACE(fmt::format("inputs {}", int(kind)));
    LinearCase c;
    c.a.push_back(stored_matrix(random, GetParam(), 40, cols));
    c.kind = kind;
    c.tokens = {1, 2, 3, 7, 12, 13, 24, 25, 64, 100};
    check(random, c);
  }
}

TEST_P(LinearOfDtype, LongRows) {
  Random random(13);
  const std::int64_t cols = block_size(GetParam()) == 1    ? 4500
                            : block_size(GetParam()) == 32 ? 4512
                                                           : 4608;
  for (const auto& [rows, width] : {std::pair{24, cols}, {5, std::int64_t{9984}}}) {
    for (Activations kind : {Activations::natural, Activations::lattice}) {
      SCOPED_TRACE(fmt::format("{} x {}, inputs {}", rows, width, int(kind)));
      LinearCase c;
      c.a.push_back(stored_matrix(random, GetParam(), rows, width));
      c.kind = kind;
      c.tokens = {1, 14};
      check(random, c);
    }
  }
}

// Largest codes against largest activations: sums that 16-bit lanes cannot hold.
TEST_P(LinearOfDtype, LargestIntegers) {
  Random random(14);
  LinearCase c;
  c.a.push_back(stored_matrix(random, GetParam(), 18, 512, /*extreme=*/true));
  c.kind = Activations::extreme;
  c.tokens = {1, 5};
  check(random, c);
}

TEST_P(LinearOfDtype, BiasAndResidual) {
  Random random(15);
  LinearCase c;
  c.a.push_back(stored_matrix(random, GetParam(), 50, 256));
  c.tokens = {1, 15};
  c.with_bias = true;
  check(random, c);
  c.with_residual = true;
  check(random, c);
  c.with_bias = false;
  check(random, c);
}

INSTANTIATE_TEST_SUITE_P(All, LinearOfDtype, testing::ValuesIn(kAllDtypes),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST(Linear, BandsOfMixedTypes) {
  Random random(16);
  for (Activations kind : {Activations::natural, Activations::lattice}) {
    LinearCase c;
    c.a.push_back(stored_matrix(random, Dtype::q4_1, 17, 256));
    c.a.push_back(stored_matrix(random, Dtype::f16, 5, 256));
    c.a.push_back(stored_matrix(random, Dtype::q6_k, 40, 256));
    c.a.push_back(stored_matrix(random, Dtype::bf16, 1, 256));
    c.a.push_back(stored_matrix(random, Dtype::f32, 16, 256));
    c.a.push_back(stored_matrix(random, Dtype::q8_0, 30, 256));
    c.kind = kind;
    c.with_bias = true;
    c.tokens = {1, 7, 30};
    check(random, c);
    c.with_residual = true;
    check(random, c);
  }
}

// A large product, so that all threads have something to do; few element types.
TEST(Linear, ManyRows) {
  Random random(17);
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::q8_0, Dtype::q4_1}) {
    SCOPED_TRACE(name(dtype));
    LinearCase c;
    c.a.push_back(stored_matrix(random, dtype, 330, 320));
    c.tokens = {1, 40};
    check(random, c);
  }
}

TEST(Linear, LowRank) {
  Random random(18);
  struct Factors {
    Dtype a, b;
    std::int64_t rank;
  };
  for (const Factors& f :
       {Factors{Dtype::f32, Dtype::f32, 24}, Factors{Dtype::f16, Dtype::f16, 7},
        Factors{Dtype::bf16, Dtype::bf16, 33}, Factors{Dtype::q8_0, Dtype::q8_0, 64},
        Factors{Dtype::q8_0, Dtype::q4_k, 32}, Factors{Dtype::f16, Dtype::q8_0, 20},
        Factors{Dtype::q4_0, Dtype::f32, 96}}) {
    SCOPED_TRACE(fmt::format("{} x {}, rank {}", name(f.a), name(f.b), f.rank));
    LinearCase c;
    c.a.push_back(stored_matrix(random, f.a, 70, f.rank));
    c.b.push_back(stored_matrix(random, f.b, f.rank, 256));
    c.tokens = {1, 2, 13, 40};
    check(random, c);
    c.with_bias = true;
    c.with_residual = true;
    check(random, c);
  }
}

}  // namespace
}  // namespace sedpa::conformance
