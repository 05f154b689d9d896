// CPU attention against the mask itself, in double precision, written for reading: query p of a
// head attends over every earlier position that HeadClass::sees, with keys and values as the cache
// encodes them. No chunks, no rings, no tiles.
#include "sedpa/backend/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/core/error.h"

namespace sedpa {
namespace {

constexpr KvDtype kDtypes[] = {KvDtype::f32, KvDtype::f16, KvDtype::bf16, KvDtype::q8, KvDtype::q4};

bool runs(Isa isa) {
  try {
    (void)cpu::attention_kernels(isa);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// A few layers that share one random qkv, each with its own number of retrieval heads.
struct Model {
  AttentionShape shape;
  HeadPlan plan;
  std::int64_t tokens = 0;
  std::vector<float> qkv;  // [tokens, qkv_cols]
};

Model make_model(std::int32_t kv_heads, std::int32_t group, std::int32_t dim,
                 const std::vector<std::int32_t>& retrieval, HeadClass retrieval_class,
                 HeadClass streaming_class, std::int64_t tokens, unsigned seed = 1) {
  Model m;
  m.shape = {.query_heads = kv_heads * group,
             .kv_heads = kv_heads,
             .head_dim = dim,
             .scale = 1.0f / std::sqrt(static_cast<float>(dim))};
  m.plan.classes[kRetrieval] = retrieval_class;
  m.plan.classes[kStreaming] = streaming_class;
  std::mt19937 random(seed);
  for (const std::int32_t count : retrieval) {
    LayerHeads heads;
    for (std::int32_t head = 0; head < kv_heads; ++head) heads.order.push_back(head);
    std::shuffle(heads.order.begin(), heads.order.end(), random);
    std::sort(heads.order.begin(), heads.order.begin() + count);
    std::sort(heads.order.begin() + count, heads.order.end());
    heads.retrieval = count;
    m.plan.layers.push_back(heads);
  }
  m.tokens = tokens;
  m.qkv.resize(tokens * m.shape.qkv_cols());
  std::normal_distribution<float> normal;
  for (float& x : m.qkv) x = 1.5f * normal(random);
  return m;
}

// [tokens, out_cols] of one layer.
std::vector<double> reference(const Model& m, std::size_t layer, KvDtype dtype) {
  const cpu::AttentionKernels& rows = cpu::attention_kernels(Isa::baseline);
  const std::int64_t dim = m.shape.head_dim;
  const std::int64_t cols = m.shape.qkv_cols();
  const std::int64_t group = m.shape.group();
  std::vector<double> out(m.tokens * m.shape.out_cols());
  std::vector<std::byte> row(kv_row_bytes(dtype, dim));
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const HeadClass& kept = m.plan.classes[head_class];
    for (const std::int32_t head : m.plan.layers[layer].heads(head_class)) {
      std::vector<float> keys(m.tokens * dim);
      std::vector<float> values(m.tokens * dim);
      for (std::int64_t j = 0; j < m.tokens; ++j) {
        const float* from = m.qkv.data() + j * cols + head * dim;
        rows.encode(dtype, from + m.shape.key_begin(), dim, dim, row.data());
        rows.decode(dtype, row.data(), dim, keys.data() + j * dim);
        rows.encode(dtype, from + m.shape.value_begin(), dim, dim, row.data());
        rows.decode(dtype, row.data(), dim, values.data() + j * dim);
      }
      for (std::int64_t p = 0; p < m.tokens; ++p) {
        std::vector<std::int64_t> seen;
        for (std::int64_t j = 0; j <= p; ++j) {
          if (kept.sees(p, j)) seen.push_back(j);
        }
        for (std::int64_t g = 0; g < group; ++g) {
          const std::int64_t column = (head * group + g) * dim;
          std::vector<double> scores;
          for (const std::int64_t j : seen) {
            double score = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
              score += double{m.qkv[p * cols + column + d]} * double{keys[j * dim + d]};
            }
            scores.push_back(score * m.shape.scale);
          }
          const double max = *std::max_element(scores.begin(), scores.end());
          double sum = 0;
          for (double& score : scores) sum += score = std::exp(score - max);
          for (std::size_t i = 0; i < seen.size(); ++i) {
            for (std::int64_t d = 0; d < dim; ++d) {
              out[p * m.shape.out_cols() + column + d] +=
                  scores[i] / sum * double{values[seen[i] * dim + d]};
            }
          }
        }
      }
    }
  }
  return out;
}

struct Setting {
  Isa isa = Isa::baseline;
  Compute compute = Compute::f32;
  KvDtype dtype = KvDtype::f32;
  int threads = 1;
};

std::string label(const Setting& s) {
  return std::string(name(s.isa)) + (s.compute == Compute::f32 ? " f32 " : " fast ") +
         std::string(name(s.dtype)) + " threads " + std::to_string(s.threads);
}

// [layers][tokens, out_cols], the prompt given in chunks of these sizes (the last repeats).
std::vector<std::vector<float>> run(const Model& m, const Setting& setting,
                                    const std::vector<std::int64_t>& chunks) {
  ThreadPool pool(setting.threads);
  CpuAttention attention(pool, setting.isa, setting.compute);
  OpsPlan plan;
  plan.attention = m.shape;
  plan.max_tokens = *std::max_element(chunks.begin(), chunks.end());
  plan.max_context = m.tokens;
  plan.heads = &m.plan;
  attention.reserve(plan);
  const KvGeometry geometry = {
      .plan = m.plan, .context = m.tokens, .head_dim = m.shape.head_dim, .dtype = setting.dtype};
  // Bytes that no one wrote must never be read into a result.
  std::vector<std::byte> full(geometry.arena_bytes(kRetrieval), std::byte{0xff});
  std::vector<std::byte> window(geometry.arena_bytes(kStreaming), std::byte{0xff});
  KvCache cache(geometry, {full.data(), window.data()});

  const LayerShape shape = LayerShape::plain(m.shape);
  std::vector<std::vector<float>> outs(m.plan.layers.size(),
                                       std::vector<float>(m.tokens * m.shape.out_cols()));
  std::vector<float> qkv = m.qkv;
  std::vector<std::int32_t> ids(m.tokens);
  std::size_t at = 0;
  for (std::int64_t past = 0; past < m.tokens;) {
    const std::int64_t tokens =
        std::min(chunks[std::min(at++, chunks.size() - 1)], m.tokens - past);
    attention.begin_step({.tokens = {ids.data(), static_cast<std::size_t>(tokens)}, .past = past},
                         cache);
    const Rows in = {qkv.data() + past * m.shape.qkv_cols(), tokens, m.shape.qkv_cols(),
                     m.shape.qkv_cols()};
    for (std::size_t layer = 0; layer < outs.size(); ++layer) {
      const Rows out = {outs[layer].data() + past * m.shape.out_cols(), tokens, m.shape.out_cols(),
                        m.shape.out_cols()};
      attention.attention(in, shape, cache.layer(static_cast<std::int64_t>(layer)), out);
      attention.commit(in, shape, cache.layer(static_cast<std::int64_t>(layer)));
    }
    cache.advance(tokens);
    past += tokens;
  }
  return outs;
}

double largest_error(const std::vector<float>& got, const std::vector<double>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]);
    if (!(error <= largest)) largest = error;  // NaN counts as an error
  }
  return largest;
}

// Values are about 1.5 N(0, 1), scores about 2 N(0, 1). f32: sums of a few hundred products and an
// exponential good to 1e-7. bf16 products: each factor is rounded by up to 2^-9, scores sum `dim`
// independent errors, weights and values are rounded once more.
double bound(const Setting& s) {
  return s.compute == Compute::f32 || s.isa != Isa::avx512 ? 2e-5 : 0.05;
}

void expect_reference(const Model& m, const std::vector<Setting>& settings,
                      const std::vector<std::vector<std::int64_t>>& chunkings) {
  for (const KvDtype dtype : kDtypes) {
    std::vector<std::vector<double>> expected;
    for (const Setting& setting : settings) {
      if (setting.dtype != dtype || !runs(setting.isa)) continue;
      for (std::size_t layer = expected.size(); layer < m.plan.layers.size(); ++layer) {
        expected.push_back(reference(m, layer, dtype));
      }
      for (const std::vector<std::int64_t>& chunks : chunkings) {
        const auto got = run(m, setting, chunks);
        for (std::size_t layer = 0; layer < got.size(); ++layer) {
          EXPECT_LE(largest_error(got[layer], expected[layer]), bound(setting))
              << label(setting) << ", chunks of " << chunks[0] << ", layer " << layer;
        }
      }
    }
  }
}

std::vector<Setting> all_settings(int threads) {
  std::vector<Setting> all;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    for (const Compute compute : {Compute::f32, Compute::fast}) {
      for (const KvDtype dtype : kDtypes) all.push_back({isa, compute, dtype, threads});
    }
  }
  return all;
}

const HeadClass kFull;

TEST(CpuAttention, BothClassesAnyChunkEveryIsaAndDtype) {
  // Layers with all, some and no retrieval heads; the ring wraps many times.
  const Model m = make_model(3, 3, 64, {3, 1, 0}, kFull, HeadClass::window(4, 0, 16), 150);
  expect_reference(m, all_settings(1), {{1}, {7}, {64}, {150}});
  expect_reference(m, {{best_isa(), Compute::f32, KvDtype::f16, 2}}, {{140, 1}, {7}});
}

TEST(CpuAttention, RetrievalHeadsMayBeWindowsWithASample) {
  const Model m = make_model(2, 2, 32, {2, 1, 0}, HeadClass::window(3, 10, 12),
                             HeadClass::window(0, 0, 5), 190);
  expect_reference(m, all_settings(1), {{1}, {19}, {190}});
}

TEST(CpuAttention, LongTilesOfASample) {
  // Strides double inside a tile; tiles see keys of the sample only, of both kinds, and sinks.
  const Model m =
      make_model(1, 2, 16, {1, 0}, HeadClass::window(5, 40, 30), HeadClass::window(70, 3, 9), 700);
  const std::vector<Setting> settings = {{Isa::avx512, Compute::f32, KvDtype::f32, 2},
                                         {Isa::avx2, Compute::fast, KvDtype::f16, 1},
                                         {Isa::avx512, Compute::fast, KvDtype::f16, 3}};
  expect_reference(m, settings, {{1}, {300}, {97, 3, 250}, {700}});
}

TEST(CpuAttention, HeadSizesAndGroups) {
  struct {
    std::int32_t kv_heads, group, dim;
  } const shapes[] = {{2, 1, 80},  {1, 4, 128}, {2, 8, 96},  {1, 9, 64}, {1, 5, 6},
                      {2, 2, 250}, {1, 20, 34}, {1, 7, 112}, {2, 6, 256}};
  for (const auto& shape : shapes) {
    const Model m = make_model(shape.kv_heads, shape.group, shape.dim, {1, 0}, kFull,
                               HeadClass::window(2, 0, 30), 70);
    expect_reference(m, all_settings(1), {{1}, {33, 1, 2}});
  }
}

TEST(CpuAttention, RingWrapsAtItsEdges) {
  // Chunks that end one before, at and one after sink + recent, then single tokens.
  const Model m = make_model(2, 3, 16, {1}, kFull, HeadClass::window(4, 0, 32), 120);
  const std::vector<Setting> settings = {{Isa::baseline, Compute::f32, KvDtype::f32, 1},
                                         {Isa::avx512, Compute::f32, KvDtype::f32, 2}};
  expect_reference(m, settings, {{35, 1, 1}, {36, 1}, {37, 1}, {35, 40, 1}, {3, 1, 33, 50}});
}

TEST(CpuAttention, AWindowThatReachesBackToTheStartIsFullAttention) {
  for (const HeadClass wide : {HeadClass::window(0, 0, 200), HeadClass::window(10, 0, 190),
                               HeadClass::window(10, 150, 40)}) {
    const Model m = make_model(2, 3, 64, {2, 0}, kFull, wide, 200);
    for (const Compute compute : {Compute::f32, Compute::fast}) {
      const Setting setting = {best_isa(), compute, KvDtype::f16, 2};
      for (const std::vector<std::int64_t>& chunks :
           {std::vector<std::int64_t>{1}, std::vector<std::int64_t>{64}}) {
        const auto outs = run(m, setting, chunks);
        const std::vector<double> full(outs[0].begin(), outs[0].end());
        EXPECT_LE(largest_error(outs[1], full), 1e-6) << label(setting);
      }
    }
  }
}

TEST(CpuAttention, ManyThreadsShareFewHeads) {
  const Model m = make_model(1, 3, 64, {1, 0}, kFull, HeadClass::window(4, 0, 300), 1500);
  const std::vector<double> expected = reference(m, 0, KvDtype::f16);
  for (const int threads : {1, 2, 5, 16}) {
    const Setting setting = {best_isa(), Compute::f32, KvDtype::f16, threads};
    for (const std::vector<std::int64_t>& chunks :
         {std::vector<std::int64_t>{1497, 1}, std::vector<std::int64_t>{1482, 9}}) {
      const auto outs = run(m, setting, chunks);
      EXPECT_LE(largest_error(outs[0], expected), bound(setting)) << label(setting);
    }
  }
}

TEST(CpuAttention, RepeatsBitForBit) {
  const Model m = make_model(3, 3, 64, {3, 1, 0}, kFull, HeadClass::window(16, 0, 64), 600);
  for (const Compute compute : {Compute::f32, Compute::fast}) {
    const Setting setting = {best_isa(), compute, KvDtype::f16, 4};
    const auto first = run(m, setting, {590, 1});
    for (int i = 0; i < 4; ++i) EXPECT_EQ(run(m, setting, {590, 1}), first) << label(setting);
  }
}

TEST(CpuAttention, ScoresOfAnySizeStayFinite) {
  // Scores of thousands, and heads whose every score is far below zero.
  Model m = make_model(1, 2, 64, {1, 0}, kFull, HeadClass::window(4, 0, 40), 130);
  for (std::size_t i = 0; i < m.qkv.size(); ++i) {
    const auto column = static_cast<std::int64_t>(i) % m.shape.qkv_cols();
    if (column < m.shape.head_dim) m.qkv[i] = 30.0f;
    if (column >= m.shape.key_begin() && column < m.shape.value_begin()) {
      m.qkv[i] = -20.0f - 0.01f * m.qkv[i];
    }
  }
  for (const Compute compute : {Compute::f32, Compute::fast}) {
    for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (!runs(isa)) continue;
      for (const std::vector<std::int64_t>& chunks :
           {std::vector<std::int64_t>{1}, std::vector<std::int64_t>{50}}) {
        for (const auto& out : run(m, {isa, compute, KvDtype::f32, 1}, chunks)) {
          for (const float x : out) ASSERT_TRUE(std::isfinite(x));
        }
      }
    }
  }
}

TEST(CpuAttention, PlansWhatItReserves) {
  OpsPlan plan;
  plan.attention = {.query_heads = 9, .kv_heads = 3, .head_dim = 64, .scale = 0.125f};
  plan.max_tokens = 512;
  plan.max_context = 4096;
  // More tokens, threads or heads never need less; one more token needs its keys and values.
  const std::size_t bytes = CpuAttention::scratch_bytes(plan, 2, Compute::fast);
  plan.max_tokens = 528;
  EXPECT_EQ(CpuAttention::scratch_bytes(plan, 2, Compute::fast),
            bytes + std::size_t{16} * 2 * 3 * 64 * 4);
  EXPECT_GT(CpuAttention::scratch_bytes(plan, 3, Compute::fast), bytes);
  plan.attention.head_dim = 63;
  EXPECT_THROW((void)CpuAttention::scratch_bytes(plan, 2, Compute::fast), Error);
  plan.attention.head_dim = 64;
  plan.attention.query_heads = 10;
  EXPECT_THROW((void)CpuAttention::scratch_bytes(plan, 2, Compute::fast), Error);
}

TEST(CpuAttention, RefusesStepsOutsideThePlan) {
  ThreadPool pool(1);
  CpuAttention attention(pool, Isa::baseline, Compute::f32);
  OpsPlan plan;
  plan.attention = {.query_heads = 2, .kv_heads = 1, .head_dim = 16, .scale = 0.25f};
  plan.max_tokens = 4;
  plan.max_context = 8;
  attention.reserve(plan);
  KvGeometry geometry = {.plan = HeadPlan::uniform(1, 1, kFull), .context = 8, .head_dim = 16};
  std::vector<std::byte> arena(geometry.bytes());
  KvCache cache(geometry, {arena.data(), nullptr});
  const std::vector<std::int32_t> ids(9);
  const auto begin = [&](std::size_t tokens, std::int64_t past) {
    attention.begin_step({.tokens = {ids.data(), tokens}, .past = past}, cache);
  };
  EXPECT_NO_THROW(begin(4, 0));
  EXPECT_THROW(begin(5, 0), Error);
  EXPECT_THROW(begin(0, 0), Error);
  EXPECT_THROW(begin(1, 1), Error);  // the cache is at 0
  cache.advance(7);
  EXPECT_THROW(begin(2, 7), Error);
  EXPECT_NO_THROW(begin(1, 7));
}

}  // namespace
}  // namespace sedpa
