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

// More bytes than a backend shares out evenly beforehand: who multiplies a row may be left to who
// comes first. Rows repeat, so that a few of them are enough for the reference.
TEST(Linear, ManyBytes) {
  Random random(19);
  constexpr std::int64_t kDistinct = 61;
  for (const auto& [rows, cols] : {std::pair{27001, 1024}, {2600, 10248}}) {
    const StoredMatrix some = stored_matrix(random, Dtype::bf16, kDistinct, cols);
    const auto stride = static_cast<std::size_t>(cols) * 2;
    const MatrixSource source{.dtype = Dtype::bf16,
                              .rows = rows,
                              .cols = cols,
                              .read = [&](std::int64_t first, std::int64_t count, std::byte* out) {
                                for (std::int64_t i = 0; i < count; ++i) {
                                  const auto from =
                                      static_cast<std::size_t>((first + i) % kDistinct);
                                  std::copy_n(some.bytes.data() + from * stride, stride,
                                              out + static_cast<std::size_t>(i) * stride);
                                }
                              }};
    const auto input = activations(random, Activations::natural, 1, cols);
    const Matrix x(1, cols, input);
    const Matrix of_some = reference::linear(some.values, kNone, x, {}, {});
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(fmt::format("{}: {} x {}", backend.name, rows, cols));
      LinearCase c;
      c.a.push_back(some);
      const Matrix bound_of_some = case_bound(backend, c, x, {}, {});
      Matrix expected(1, rows);
      Matrix bound(1, rows);
      for (std::int64_t i = 0; i < rows; ++i) {
        expected.at(0, i) = of_some.at(0, i % kDistinct);
        bound.at(0, i) = bound_of_some.at(0, i % kDistinct);
      }
      const auto ops = make(backend, 1, cols, 0);
      Linear linear;
      linear.a = ops->make_weight({&source, 1});
      DeviceRows in(*ops, 1, cols, 8);
      in.write(input);
      DeviceRows out(*ops, 1, rows);
      const auto actual =
          run_checked(*ops, out, 1, [&] { ops->linear(linear, in.view(), out.view()); });
      expect_within(actual, 1, expected, bound);
    }
  }
}

// Query, key and value behind one norm, each whole or two factors, of other types and ranks: a
// backend may do what does not wait for each other side by side. x is +1 and -1, so that the norm
// leaves it as it is, and the norm's weights make the row.
TEST(Linear, PartsBehindANorm) {
  Random random(20);
  struct Part {
    Dtype a, b;
    std::int64_t rows, rank;  // rank 0: whole
  };
  constexpr Dtype kBf16 = Dtype::bf16, kF16 = Dtype::f16, kQ8 = Dtype::q8_0, kF32 = Dtype::f32;
  const std::vector<std::vector<Part>> cases = {
      {{kBf16, kBf16, 256, 64}, {kBf16, kBf16, 128, 32}, {kBf16, kBf16, 128, 96}},
      {{kF16, kF16, 256, 64}, {kF16, kF16, 96, 0}, {kF16, kF16, 96, 8}},
      {{kBf16, kQ8, 128, 0}, {kQ8, kF16, 64, 32}},
      {{kBf16, kBf16, 40, 7}, {kBf16, kBf16, 24, 0}, {kQ8, kQ8, 24, 32}},
      {{kF32, kF32, 40, 16}, {kBf16, kBf16, 24, 16}},
      {{kQ8, kQ8, 1024, 256}, {kBf16, kBf16, 3, 8}, {Dtype::q4_k, Dtype::q4_k, 5, 256}},
  };
  constexpr std::int64_t kCols = 512;
  constexpr std::int64_t kMost = 5;
  const auto row = activations(random, Activations::natural, 1, kCols);
  std::vector<float> signs;
  std::vector<float> sizes;
  for (const float number : row) {
    signs.push_back(number < 0 ? -1.0f : 1.0f);
    sizes.push_back(std::abs(number));
  }
  std::vector<float> input;
  std::vector<float> normed;
  for (std::int64_t t = 0; t < kMost; ++t) {
    input.insert(input.end(), signs.begin(), signs.end());
    normed.insert(normed.end(), row.begin(), row.end());
  }
  for (const std::vector<Part>& parts : cases) {
    std::vector<LinearCase> linears;
    std::int64_t cols = 0;
    for (const Part& part : parts) {
      LinearCase& c = linears.emplace_back();
      const std::int64_t inner = part.rank > 0 ? part.rank : kCols;
      c.a.push_back(stored_matrix(random, part.a, part.rows, inner));
      if (part.rank > 0) c.b.push_back(stored_matrix(random, part.b, part.rank, kCols));
      cols += part.rows;
    }
    const auto bias = normal(random, parts[0].rows);
    for (const Backend& backend : backends()) {
      SCOPED_TRACE(fmt::format("{}: {} columns", backend.name, cols));
      const auto ops = make(backend, kMost, kCols, 256);
      const Vector norm = ops->make_vector(sizes);
      std::vector<Linear> all;
      Matrix expected(kMost, cols);
      Matrix bound(kMost, cols);
      std::int64_t first = 0;
      const Matrix x(kMost, kCols, normed);
      for (const LinearCase& c : linears) {
        const auto added = first == 0 ? std::span<const float>(bias) : std::span<const float>();
        Linear& linear = all.emplace_back();
        linear.a = make_weight(*ops, c.a);
        if (!c.b.empty()) linear.b = make_weight(*ops, c.b);
        if (!added.empty()) linear.bias = ops->make_vector(added);
        take_columns(reference::linear(stack(c.a, false), stack(c.b, false), x, added, {}), first,
                     expected);
        take_columns(case_bound(backend, c, x, added, {}), first, bound);
        first += linear.a.rows;
      }
      DeviceRows in(*ops, kMost, kCols, 8);
      in.write(input);
      DeviceRows between(*ops, kMost, kCols, 8);
      DeviceRows out(*ops, kMost, cols);
      for (const std::int64_t tokens : {std::int64_t{1}, kMost}) {
        SCOPED_TRACE(fmt::format("{} tokens", tokens));
        const auto actual = run_checked(*ops, out, tokens, [&] {
          ops->rms_norm(in.view(tokens), norm, 0, between.view(tokens));
          std::int64_t begin = 0;
          for (const Linear& linear : all) {
            ops->linear(linear, between.view(tokens),
                        out.view(tokens).columns(begin, linear.a.rows));
            begin += linear.a.rows;
          }
        });
        expect_within(actual, tokens, expected, bound);
      }
    }
  }
}

}  // namespace
}  // namespace sedpa::conformance
