// attention and commit together: every KV dtype, head sizes, groups, plans, chunkings, ring wraps;
// plain heads and thin ones (attention_case.h says how).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "tests/ops_conformance/attention_case.h"
#include "tests/ops_conformance/bounds.h"
#include "tests/ops_conformance/device.h"

namespace sedpa::conformance {
namespace {

class Attention : public testing::TestWithParam<AttentionCase> {};

TEST_P(Attention, MatchesTheReference) {
  check_attention(GetParam(), 31);
  RecordProperty("worst_error_over_bound", fmt::format("{:.3f}", take_worst_ratio()));
}

std::vector<AttentionCase> cases() {
  std::vector<AttentionCase> all;
  const auto add = [&](AttentionCase c) { all.push_back(std::move(c)); };

  for (std::int32_t dim : {64, 80, 96, 128, 16, 34}) {
    add({.name = fmt::format("head_size_{}", dim), .head_dim = dim, .chunks = {20, 1, 9}});
  }
  for (std::int32_t group : {1, 3, 4, 8}) {
    add({.name = fmt::format("group_{}", group),
         .group = group,
         .kv_heads = group == 8 ? 1 : 2,
         .chunks = {18, 1, 1, 5}});
  }
  for (KvDtype dtype : {KvDtype::f32, KvDtype::f16, KvDtype::bf16, KvDtype::q8, KvDtype::q4}) {
    for (std::int32_t dim : {64, 80}) {
      add({.name = fmt::format("kv_{}_head_size_{}", name(dtype), dim),
           .head_dim = dim,
           .dtype = dtype,
           .chunks = {25, 1, 3, 1, 14, 1}});
    }
  }
  // Layers with no, some and all retrieval heads, in one cache.
  add({.name = "plans_of_layers",
       .group = 2,
       .kv_heads = 4,
       .head_dim = 32,
       .retrieval_heads = {0, 4, 1, 3},
       .chunks = {21, 1, 13, 1}});
  add({.name = "no_retrieval_head_anywhere", .retrieval_heads = {0, 0}, .chunks = {21, 1, 13, 1}});
  add({.name = "no_streaming_head_anywhere", .retrieval_heads = {3, 3}, .chunks = {21, 1, 13, 1}});
  // The ring of 4 + 12 tokens: the first step that ends one short of it, at it, one beyond.
  for (std::int64_t edge : {15, 16, 17}) {
    add({.name = fmt::format("first_chunk_of_{}", edge), .chunks = {edge, 1, 1, 1, 2}});
    add({.name = fmt::format("decode_across_{}", edge), .chunks = {edge - 2, 1, 1, 1, 1, 1}});
  }
  for (std::int64_t chunk : {1, 7, 64, 200}) {
    for (bool lattice : {false, true}) {
      add({.name = fmt::format("chunks_of_{}{}", chunk, lattice ? "_lattice" : ""),
           .group = 2,
           .kv_heads = 2,
           .head_dim = 32,
           .dtype = KvDtype::f32,
           .streaming = HeadClass::window(3, 0, 29),
           .chunks = chunks_of(lattice && chunk == 1 ? 50 : 130, chunk),
           .lattice = lattice});
    }
  }
  add({.name = "window_of_the_query_alone",
       .streaming = HeadClass::window(0, 0, 1),
       .chunks = {9, 1, 1, 6}});
  add({.name = "no_sink", .streaming = HeadClass::window(0, 0, 7), .chunks = {9, 1, 1, 12, 1}});
  add({.name = "window_longer_than_all",
       .streaming = HeadClass::window(10, 0, 500),
       .chunks = {30, 1, 8}});
  add({.name = "context_never_filled", .chunks = {12, 1, 3}, .context = 300});
  // SEDPA-W: retrieval heads keep a middle sample; its stride doubles several times on the way.
  for (std::int64_t chunk : {1, 7, 50, 120}) {
    add({.name = fmt::format("middle_sample_chunks_of_{}", chunk),
         .group = 2,
         .kv_heads = 2,
         .head_dim = 32,
         .retrieval = HeadClass::window(4, 8, 16),
         .streaming = HeadClass::window(2, 0, 10),
         .retrieval_heads = {1, 2},
         .chunks = chunks_of(120, chunk)});
  }
  add({.name = "middle_sample_kv_q8",
       .kv_heads = 2,
       .dtype = KvDtype::q8,
       .retrieval = HeadClass::window(2, 5, 9),
       .chunks = {40, 1, 1, 30, 1}});
  // Long enough for several key tiles, key ranges split over threads, and chunks that straddle.
  add({.name = "long_prefill_then_decode",
       .group = 4,
       .kv_heads = 2,
       .streaming = HeadClass::window(16, 0, 64),
       .chunks = {300, 131, 1, 1},
       .checked_queries = 160});
  add({.name = "long_context_decode",
       .group = 3,
       .kv_heads = 2,
       .dtype = KvDtype::f16,
       .streaming = HeadClass::window(16, 0, 64),
       .chunks = {1500, 1, 1},
       .checked_queries = 6});
  add({.name = "long_context_decode_q8",
       .group = 3,
       .kv_heads = 2,
       .dtype = KvDtype::q8,
       .streaming = HeadClass::window(16, 0, 64),
       .chunks = {1200, 1, 1},
       .checked_queries = 6});
  // Decoding by many blocks: parts of heads, several short heads to a block, halves of head
  // vectors.
  for (KvDtype dtype : {KvDtype::f16, KvDtype::bf16, KvDtype::q8}) {
    add({.name = fmt::format("long_decode_head_size_128_{}", name(dtype)),
         .group = 4,
         .kv_heads = 2,
         .head_dim = 128,
         .dtype = dtype,
         .streaming = HeadClass::window(16, 0, 100),
         .retrieval_heads = {1, 2, 0},
         .chunks = {1000, 1, 1},
         .context = 1003,  // heads of q8 then begin between multiples of 16 bytes
         .checked_queries = 2});
  }
  // More parts of a head than a warp has lanes.
  add({.name = "decode_of_one_long_head",
       .group = 4,
       .kv_heads = 1,
       .head_dim = 64,
       .dtype = KvDtype::f16,
       .retrieval_heads = {1},
       .chunks = {4500, 1, 1},
       .checked_queries = 2});
  add({.name = "decode_of_many_heads",
       .group = 1,
       .kv_heads = 96,
       .streaming = HeadClass::window(4, 0, 12),
       .retrieval_heads = {5, 90},
       .chunks = {150, 1, 1},
       .checked_queries = 2});
  add({.name = "decode_of_large_groups",
       .group = 20,
       .kv_heads = 2,
       .streaming = HeadClass::window(4, 0, 12),
       .chunks = {150, 1, 1},
       .checked_queries = 2});
  add({.name = "long_lattice",
       .group = 4,
       .kv_heads = 2,
       .streaming = HeadClass::window(16, 0, 64),
       .chunks = {300, 70, 1},
       .lattice = true,
       .checked_queries = 90});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Table, Attention, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// Heads of fewer numbers than the head size, in every layer others.
std::vector<HeadWidths> uneven_widths(std::int64_t heads, std::int32_t head_dim) {
  std::vector<HeadWidths> widths;
  for (std::int32_t i = 0; i < heads; ++i) {
    // Coprime strides: keys and values of all widths meet, a head's two are hardly ever the same.
    widths.push_back({.key = 16 * (1 + 3 * i % (head_dim / 16)),
                      .value = 16 * (1 + (5 * i + 2) % (head_dim / 16))});
  }
  return widths;
}

std::vector<AttentionCase> thin_cases() {
  std::vector<AttentionCase> all;
  const auto add = [&](AttentionCase c) {
    if (c.widths.empty()) c.widths = uneven_widths(c.layers() * c.kv_heads, c.head_dim);
    all.push_back(std::move(c));
  };
  for (KvDtype dtype : {KvDtype::f32, KvDtype::f16, KvDtype::bf16, KvDtype::q8, KvDtype::q4}) {
    for (std::int32_t dim : {64, 80, 128}) {
      add({.name = fmt::format("kv_{}_head_size_{}", name(dtype), dim),
           .kv_heads = 4,
           .head_dim = dim,
           .dtype = dtype,
           .retrieval_heads = {2, 1},
           .chunks = {25, 1, 3, 1, 14, 1}});
    }
  }
  for (std::int32_t group : {1, 3, 4, 8, 20}) {
    add({.name = fmt::format("group_{}", group),
         .group = group,
         .kv_heads = group >= 8 ? 2 : 4,
         .chunks = {18, 1, 1, 5}});
  }
  add({.name = "plans_of_layers",
       .group = 2,
       .kv_heads = 4,
       .head_dim = 96,
       .retrieval_heads = {0, 4, 1, 3},
       .chunks = {21, 1, 13, 1}});
  // As compress makes them: equal widths in a class, and a layer that is left as it was.
  add({.name = "one_width_a_class",
       .kv_heads = 2,
       .retrieval_heads = {1, 1, 1},
       .chunks = {30, 1, 1, 9},
       .widths = {{32, 48}, {48, 64}, {64, 64}, {64, 64}, {16, 16}, {64, 16}}});
  add({.name = "narrow_values_alone",
       .kv_heads = 2,
       .dtype = KvDtype::q8,
       .chunks = {30, 1, 1, 9},
       .widths = {{64, 16}, {64, 48}}});
  add({.name = "narrow_keys_alone",
       .kv_heads = 2,
       .dtype = KvDtype::q4,
       .chunks = {30, 1, 1, 9},
       .widths = {{48, 64}, {16, 64}}});
  for (std::int64_t edge : {15, 16, 17}) {
    add({.name = fmt::format("first_chunk_of_{}", edge), .chunks = {edge, 1, 1, 1, 2}});
  }
  for (std::int64_t chunk : {1, 7, 130}) {
    add({.name = fmt::format("chunks_of_{}", chunk),
         .group = 2,
         .dtype = KvDtype::f32,
         .streaming = HeadClass::window(3, 0, 29),
         .chunks = chunks_of(130, chunk)});
    add({.name = fmt::format("middle_sample_chunks_of_{}", chunk),
         .group = 2,
         .kv_heads = 2,
         .retrieval = HeadClass::window(4, 8, 16),
         .streaming = HeadClass::window(2, 0, 10),
         .retrieval_heads = {1, 2},
         .chunks = chunks_of(120, chunk)});
  }
  for (KvDtype dtype : {KvDtype::f16, KvDtype::q8}) {
    add({.name = fmt::format("long_prefill_then_decode_{}", name(dtype)),
         .group = 4,
         .kv_heads = 2,
         .head_dim = 128,
         .dtype = dtype,
         .streaming = HeadClass::window(16, 0, 64),
         .retrieval_heads = {1, 2, 0},
         .chunks = {1000, 131, 1, 1},
         .checked_queries = 60});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(ThinHeads, Attention, testing::ValuesIn(thin_cases()),
                         [](const auto& test) { return test.param.name; });

// Scores of many hundreds: softmax must not overflow, and one key takes all.
TEST(AttentionScores, MayBeLarge) {
  const AttentionCase c{.name = "", .head_dim = 64, .dtype = KvDtype::f32, .chunks = {20, 1, 1}};
  check_attention(c, 33, [](AttentionInputs& inputs) {
    for (auto& layer : inputs) {
      for (float& x : layer) x = std::round(x * 16);  // exact in bf16: scores are exact too
    }
  });
}

// Later keys have ever larger scores, a little or a lot by tile: what was summed before is to be
// scaled down again and again.
TEST(AttentionScores, MayGrow) {
  for (const KvDtype dtype : {KvDtype::f16, KvDtype::bf16}) {
    for (const float growth : {0.004f, 0.03f}) {
      SCOPED_TRACE(testing::Message() << name(dtype) << ", growth " << growth);
      const AttentionCase c{.name = "",
                            .group = 2,
                            .kv_heads = 1,
                            .head_dim = 128,
                            .dtype = dtype,
                            .chunks = {600, 330, 1},
                            .checked_queries = 100};
      check_attention(c, 35, [&](AttentionInputs& inputs) {
        const std::int64_t queries = c.group * c.kv_heads * c.head_dim;
        const std::int64_t keys = c.kv_heads * c.head_dim;
        for (auto& layer : inputs) {
          const std::int64_t columns = std::ssize(layer) / c.tokens();
          for (std::int64_t token = 0; token < c.tokens(); ++token) {
            const auto key = layer.begin() + token * columns + queries;
            const float factor = 1 + growth * static_cast<float>(token);
            std::for_each(key, key + keys, [&](float& x) { x *= factor; });
          }
        }
      });
    }
  }
}

}  // namespace
}  // namespace sedpa::conformance
