// attention and commit together, as a sequence of steps: what is stored, where, and what each query
// of each head makes of it. Every KV dtype, head sizes, groups, plans, chunkings, ring wraps.
//
// First all keys and values of a case are committed to a cache that keeps everything, and read back
// by the layout that kv_policy.h states: that is what the backend's KV dtype makes of them, checked
// number by number against what went in. Those numbers are the reference's keys and values. A chunk
// sees its own keys and values as the cache would store them, so that the result does not depend on
// how a prompt was cut into chunks (contract 1). Then the case's own plan runs, and its slots must
// hold the same numbers.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "tests/ops_conformance/device.h"
#include "tests/ops_conformance/inputs.h"
#include "tests/ops_conformance/sequence.h"

namespace sedpa::conformance {
namespace {

struct AttentionCase {
  std::string name;
  std::int32_t group = 3;
  std::int32_t kv_heads = 3;
  std::int32_t head_dim = 64;
  KvDtype dtype = KvDtype::f16;
  HeadClass retrieval = {};
  HeadClass streaming = HeadClass::window(4, 0, 12);
  std::vector<std::int32_t> retrieval_heads = {1};  // of each layer
  std::vector<std::int64_t> chunks;
  bool lattice = false;                    // inputs that bf16 holds exactly
  std::int64_t context = 0;                // 0: just enough
  std::int64_t checked_queries = 1 << 30;  // the last ones; long contexts check a few

  [[nodiscard]] std::int64_t tokens() const {
    std::int64_t sum = 0;
    for (std::int64_t chunk : chunks) sum += chunk;
    return sum;
  }
  [[nodiscard]] std::int64_t layers() const {
    return static_cast<std::int64_t>(retrieval_heads.size());
  }
};

void PrintTo(const AttentionCase& c, std::ostream* out) { *out << c.name; }

AttentionShape shape_of(const AttentionCase& c) {
  return {.query_heads = c.group * c.kv_heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
}

/// Retrieval heads: odd ones first in even layers, even ones first in odd layers, so that a layer's
/// order is hardly ever that of its heads and differs from the next layer's. Each class ascending.
HeadPlan plan_of(const AttentionCase& c) {
  HeadPlan plan;
  plan.classes[kRetrieval] = c.retrieval;
  plan.classes[kStreaming] = c.streaming;
  for (std::size_t layer = 0; layer < c.retrieval_heads.size(); ++layer) {
    LayerHeads heads;
    heads.retrieval = c.retrieval_heads[layer];
    for (std::int32_t parity : {1, 0}) {
      for (std::int32_t h = 0; h < c.kv_heads; ++h) {
        if ((h + static_cast<std::int32_t>(layer)) % 2 == parity) heads.order.push_back(h);
      }
    }
    std::sort(heads.order.begin(), heads.order.begin() + heads.retrieval);
    std::sort(heads.order.begin() + heads.retrieval, heads.order.end());
    plan.layers.push_back(heads);
  }
  return plan;
}

SequenceConfig config_of(const AttentionCase& c, const HeadPlan& plan) {
  SequenceConfig config;
  config.attention = shape_of(c);
  config.rope = {
      .dim = c.head_dim,
      .inverse_frequency = std::vector<double>(static_cast<std::size_t>(c.head_dim) / 2, 1.0)};
  config.geometry = {.plan = plan,
                     .context = std::max(c.context, c.tokens()),
                     .head_dim = c.head_dim,
                     .dtype = c.dtype};
  config.max_tokens = *std::max_element(c.chunks.begin(), c.chunks.end());
  return config;
}

/// [layer][tokens, qkv_cols], rotated already as far as attention is concerned.
using Inputs = std::vector<std::vector<float>>;

Inputs inputs_of(const AttentionCase& c, Random& random) {
  const AttentionShape shape = shape_of(c);
  Inputs inputs;
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    auto qkv = normal(random, c.tokens() * shape.qkv_cols());
    for (std::size_t i = 0; i < qkv.size(); ++i) {
      // Scores of a spread of 2: neither flat nor a single winner.
      const auto col = static_cast<std::int64_t>(i) % shape.qkv_cols();
      if (col < shape.key_begin()) qkv[i] *= 2;
      if (col >= shape.value_begin()) qkv[i] += 0.25f;
      if (c.lattice) qkv[i] = bf16_to_f32(f32_to_bf16(qkv[i]));
    }
    // A token whose keys and values are all zero: scales of zero.
    if (c.tokens() > 5) {
      std::fill_n(qkv.begin() + 3 * shape.qkv_cols() + shape.key_begin(),
                  2 * c.kv_heads * c.head_dim, 0.0f);
    }
    inputs.push_back(std::move(qkv));
  }
  return inputs;
}

/// [layer][KV head]
using History = std::vector<std::vector<reference::HeadHistory>>;

History empty_history(const AttentionCase& c) {
  const std::vector<double> missing(static_cast<std::size_t>(c.head_dim), NAN);
  const std::vector<std::vector<double>> all(static_cast<std::size_t>(c.tokens()), missing);
  return History(static_cast<std::size_t>(c.layers()),
                 std::vector<reference::HeadHistory>(static_cast<std::size_t>(c.kv_heads),
                                                     {.keys = all, .values = all}));
}

bool same(const History& a, const History& b) {
  for (std::size_t layer = 0; layer < a.size(); ++layer) {
    for (std::size_t head = 0; head < a[layer].size(); ++head) {
      if (a[layer][head].keys != b[layer][head].keys ||
          a[layer][head].values != b[layer][head].values) {
        return false;
      }
    }
  }
  return true;
}

/// Calls visit(layer, KV head, position, stored key, stored value) for every slot that holds a
/// position in [from, length).
template <class Visit>
void for_each_stored(Sequence& sequence, const AttentionCase& c, std::int64_t from, Visit visit) {
  KvCache& cache = sequence.cache();
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const auto arena = sequence.arena(head_class);
    const auto slots = cache.positions(head_class);
    const bool full = cache.geometry().plan.classes[head_class].full;
    const std::byte* base = sequence.arena_begin(head_class);
    for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
      const KvBlock& block = cache.layer(layer).blocks[head_class];
      const auto heads = cache.layer(layer).heads->heads(head_class);
      ASSERT_EQ(block.heads, static_cast<std::int32_t>(heads.size()));
      for (std::int32_t h = 0; h < block.heads; ++h) {
        const std::int64_t used = full ? cache.length() : static_cast<std::int64_t>(slots.size());
        for (std::int64_t slot = 0; slot < used; ++slot) {
          const std::int64_t position = full ? slot : slots[static_cast<std::size_t>(slot)];
          if (position < from) continue;
          const std::byte* const key = arena.data() + (block.key(h, slot) - base);
          const std::byte* const value = arena.data() + (block.value(h, slot) - base);
          visit(layer, heads[static_cast<std::size_t>(h)], position, key, value);
        }
      }
    }
  }
}

/// What the backend's cache makes of all keys and values, each number checked against its input.
History stored_history(const Backend& backend, const AttentionCase& c, const Inputs& inputs) {
  const HeadPlan plan = HeadPlan::uniform(static_cast<std::int32_t>(c.layers()), c.kv_heads, {});
  SequenceConfig config = config_of(c, plan);
  config.max_tokens = c.tokens();
  Sequence sequence(backend, config);
  const std::int64_t cols = config.attention.qkv_cols();

  const LayerShape shape = LayerShape::plain(config.attention);

  sequence.begin(c.tokens());
  std::vector<DeviceRows> qkv;
  for (const auto& values : inputs) {
    qkv.emplace_back(sequence.ops(), c.tokens(), cols);
    qkv.back().write(values);
  }
  run(sequence.ops(), c.tokens(), [&] {
    for (std::size_t layer = 0; layer < inputs.size(); ++layer) {
      sequence.ops().commit(qkv[layer].view(), shape,
                            sequence.cache().layer(static_cast<std::int64_t>(layer)));
    }
  });
  sequence.cache().advance(c.tokens());

  History history = empty_history(c);
  std::int64_t outside = 0;
  const auto take = [&](const std::byte* row, const float* input, std::vector<double>& numbers) {
    numbers = decode_kv_row(c.dtype, c.head_dim, row);
    const std::vector<double> original(input, input + c.head_dim);
    const auto bound = kv_bound(c.dtype, original);
    for (std::size_t d = 0; d < numbers.size(); ++d) {
      if (!(std::abs(numbers[d] - original[d]) <= bound[d])) ++outside;
    }
  };
  for_each_stored(
      sequence, c, 0,
      [&](std::int64_t layer, std::int32_t head, std::int64_t position, const std::byte* key,
          const std::byte* value) {
        const float* row = inputs[static_cast<std::size_t>(layer)].data() + position * cols;
        auto& kept = history[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
        const std::int64_t at = head * c.head_dim;
        take(key, row + config.attention.key_begin() + at, kept.keys[position]);
        take(value, row + config.attention.value_begin() + at, kept.values[position]);
      });
  EXPECT_EQ(outside, 0) << "stored numbers out of bounds";
  return history;
}

struct Expected {
  std::vector<Matrix> value;  // [layer][tokens, out_cols]
  std::vector<Matrix> bound;
};

Expected expected_of(const AttentionCase& c, const HeadPlan& plan, const Inputs& inputs,
                     const History& history, Rounding rounding) {
  const AttentionShape shape = shape_of(c);
  Expected expected;
  std::vector<std::int64_t> positions;
  std::vector<double> weights;
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    Matrix value(c.tokens(), shape.out_cols());
    Matrix bound(c.tokens(), shape.out_cols());
    const LayerHeads& heads = plan.layers[static_cast<std::size_t>(layer)];
    for (std::int32_t at = 0; at < c.kv_heads; ++at) {
      const HeadClass& head_class = plan.classes[at < heads.retrieval ? kRetrieval : kStreaming];
      const std::int32_t head = heads.order[static_cast<std::size_t>(at)];
      const auto& seen = history[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
      for (std::int64_t t = std::max<std::int64_t>(0, c.tokens() - c.checked_queries);
           t < c.tokens(); ++t) {
        for (std::int32_t q = head * c.group; q < (head + 1) * c.group; ++q) {
          const float* row = inputs[static_cast<std::size_t>(layer)].data() + t * shape.qkv_cols() +
                             std::int64_t{q} * c.head_dim;
          const std::vector<double> query(row, row + c.head_dim);
          const auto out =
              reference::attention(query, shape.scale, t, head_class, seen, positions, weights);
          const auto limit =
              attention_bound(rounding, query, shape.scale, seen, positions, weights, out);
          std::copy(out.begin(), out.end(), value.row(t) + std::int64_t{q} * c.head_dim);
          std::copy(limit.begin(), limit.end(), bound.row(t) + std::int64_t{q} * c.head_dim);
        }
      }
    }
    expected.value.push_back(std::move(value));
    expected.bound.push_back(std::move(bound));
  }
  return expected;
}

Matrix some_rows(const Matrix& all, std::int64_t begin, std::int64_t count) {
  Matrix part(count, all.cols);
  std::copy_n(all.row(begin), count * all.cols, part.data.begin());
  return part;
}

/// The case's steps on one backend.
void run_steps(const Backend& backend, const AttentionCase& c, const HeadPlan& plan,
               const Inputs& inputs, const History& history, const Expected& expected) {
  const SequenceConfig config = config_of(c, plan);
  const std::int64_t cols = config.attention.qkv_cols();
  const std::int64_t out_cols = config.attention.out_cols();
  const LayerShape shape = LayerShape::plain(config.attention);
  Sequence sequence(backend, config);
  Ops& ops = sequence.ops();
  DeviceRows qkv(ops, config.max_tokens, cols);
  DeviceRows out(ops, config.max_tokens, out_cols);

  std::int64_t past = 0;
  for (std::int64_t tokens : c.chunks) {
    SCOPED_TRACE(fmt::format("chunk of {} at {}", tokens, past));
    sequence.begin(tokens);
    std::vector<std::vector<std::byte>> before;
    for (int k = 0; k < kHeadClasses; ++k) before.push_back(sequence.arena(k));
    for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
      SCOPED_TRACE(fmt::format("layer {}", layer));
      const KvLayer& kv = sequence.cache().layer(layer);
      std::vector<float> rows(static_cast<std::size_t>(config.max_tokens * cols), NAN);
      std::copy_n(inputs[static_cast<std::size_t>(layer)].data() + past * cols, tokens * cols,
                  rows.begin());
      qkv.write(rows);
      const auto actual = run_checked(
          ops, out, tokens, [&] { ops.attention(qkv.view(tokens), shape, kv, out.view(tokens)); });
      const std::int64_t skipped =
          std::clamp<std::int64_t>(c.tokens() - c.checked_queries - past, 0, tokens);
      expect_within(std::span(actual).subspan(static_cast<std::size_t>(skipped * out_cols)),
                    tokens - skipped,
                    some_rows(expected.value[static_cast<std::size_t>(layer)], past + skipped,
                              tokens - skipped),
                    some_rows(expected.bound[static_cast<std::size_t>(layer)], past + skipped,
                              tokens - skipped));
      // Attention leaves the cache's visible part alone; commit after it, as forward has it.
      run(ops, tokens, [&] { ops.commit(qkv.view(tokens), shape, kv); });
    }

    // Slots that the plan does not name keep their bytes.
    std::int64_t strays = 0;
    for (int k = 0; k < kHeadClasses; ++k) {
      const auto after = sequence.arena(k);
      auto& allowed = before[static_cast<std::size_t>(k)];
      const std::byte* base = sequence.arena_begin(k);
      for (const SlotWrite& write : sequence.cache().plan_commit(k, tokens)) {
        for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
          const KvBlock& block = sequence.cache().layer(layer).blocks[k];
          for (std::int32_t h = 0; h < block.heads; ++h) {
            const auto key = block.key(h, write.slot) - base;
            const auto value = block.value(h, write.slot) - base;
            std::copy_n(after.begin() + key, block.key_row_bytes, allowed.begin() + key);
            std::copy_n(after.begin() + value, block.value_row_bytes, allowed.begin() + value);
          }
        }
      }
      for (std::size_t i = 0; i < after.size(); ++i) strays += after[i] != allowed[i];
    }
    EXPECT_EQ(strays, 0) << "bytes written outside the planned slots";

    sequence.cache().advance(tokens);
    std::int64_t wrong = 0;
    for_each_stored(sequence, c, past,
                    [&](std::int64_t layer, std::int32_t head, std::int64_t position,
                        const std::byte* key, const std::byte* value) {
                      const auto& kept =
                          history[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
                      wrong += decode_kv_row(c.dtype, c.head_dim, key) != kept.keys[position];
                      wrong += decode_kv_row(c.dtype, c.head_dim, value) != kept.values[position];
                    });
    EXPECT_EQ(wrong, 0) << "rows that another chunking would have stored differently";
    past += tokens;
    if (testing::Test::HasFailure()) return;  // later steps would only repeat it
  }
}

void check(const AttentionCase& c, std::uint64_t seed) {
  Random random(seed);
  const HeadPlan plan = plan_of(c);
  const Inputs inputs = inputs_of(c, random);
  History history;
  std::optional<Expected> expected[2];  // exact products, and bf16 ones
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const History stored = stored_history(backend, c, inputs);
    if (history.empty() || !same(stored, history)) {
      history = stored;
      expected[0].reset();
      expected[1].reset();
    }
    auto& mine = expected[backend.attention_rounding == Rounding::none ? 0 : 1];
    if (!mine) mine = expected_of(c, plan, inputs, history, backend.attention_rounding);
    run_steps(backend, c, plan, inputs, history, *mine);
  }
}

std::vector<std::int64_t> chunks_of(std::int64_t tokens, std::int64_t chunk) {
  std::vector<std::int64_t> chunks(static_cast<std::size_t>(tokens / chunk), chunk);
  if (tokens % chunk != 0) chunks.push_back(tokens % chunk);
  return chunks;
}

class Attention : public testing::TestWithParam<AttentionCase> {};

TEST_P(Attention, MatchesTheReference) {
  check(GetParam(), 31);
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
  for (KvDtype dtype : {KvDtype::f16, KvDtype::bf16}) {
    add({.name = fmt::format("long_decode_head_size_128_{}", name(dtype)),
         .group = 4,
         .kv_heads = 2,
         .head_dim = 128,
         .dtype = dtype,
         .streaming = HeadClass::window(16, 0, 100),
         .retrieval_heads = {1, 2, 0},
         .chunks = {1000, 1, 1},
         .checked_queries = 2});
  }
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

// Scores of many hundreds: softmax must not overflow, and one key takes all.
TEST(AttentionScores, MayBeLarge) {
  AttentionCase c{.name = "", .head_dim = 64, .dtype = KvDtype::f32, .chunks = {20, 1, 1}};
  Random random(33);
  const HeadPlan plan = plan_of(c);
  Inputs inputs = inputs_of(c, random);
  for (auto& layer : inputs) {
    for (float& x : layer) x = std::round(x * 16);  // exact in bf16: scores are exact too
  }
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const History history = stored_history(backend, c, inputs);
    run_steps(backend, c, plan, inputs, history,
              expected_of(c, plan, inputs, history, backend.attention_rounding));
  }
}

}  // namespace
}  // namespace sedpa::conformance
