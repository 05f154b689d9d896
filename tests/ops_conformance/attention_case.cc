#include "tests/ops_conformance/attention_case.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <ostream>

#include "tests/ops_conformance/device.h"

namespace sedpa::conformance {
namespace {

AttentionShape shape_of(const AttentionCase& c) {
  return {.query_heads = c.group * c.kv_heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
}

LayerShape shape_of_layer(const AttentionCase& c, std::int64_t layer) {
  if (c.widths.empty()) return LayerShape::plain(shape_of(c));
  return LayerShape::of(c.group,
                        std::span(c.widths).subspan(static_cast<std::size_t>(layer * c.kv_heads),
                                                    static_cast<std::size_t>(c.kv_heads)));
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
                     .dtype = c.dtype,
                     .widths = c.widths};
  config.max_tokens = *std::max_element(c.chunks.begin(), c.chunks.end());
  return config;
}

AttentionInputs inputs_of(const AttentionCase& c, Random& random) {
  AttentionInputs inputs;
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    const LayerShape shape = shape_of_layer(c, layer);
    auto qkv = normal(random, c.tokens() * shape.qkv_cols);
    for (std::size_t i = 0; i < qkv.size(); ++i) {
      // Scores of a spread of 2: neither flat nor a single winner.
      const auto col = static_cast<std::int64_t>(i) % shape.qkv_cols;
      if (col < shape.key_begin) qkv[i] *= 2;
      if (col >= shape.value_begin) qkv[i] += 0.25f;
      if (c.lattice) qkv[i] = bf16_to_f32(f32_to_bf16(qkv[i]));
    }
    // A token whose keys and values are all zero: scales of zero.
    if (c.tokens() > 5) {
      std::fill_n(qkv.begin() + 3 * shape.qkv_cols + shape.key_begin,
                  shape.qkv_cols - shape.key_begin, 0.0f);
    }
    inputs.push_back(std::move(qkv));
  }
  return inputs;
}

/// [layer][KV head]
using History = std::vector<std::vector<reference::HeadHistory>>;

History empty_history(const AttentionCase& c) {
  History history;
  const auto tokens = static_cast<std::size_t>(c.tokens());
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    auto& heads = history.emplace_back();
    for (const HeadColumns& head : shape_of_layer(c, layer).heads) {
      const std::vector<double> key(static_cast<std::size_t>(head.key_dim), NAN);
      const std::vector<double> value(static_cast<std::size_t>(head.value_dim), NAN);
      heads.push_back({.keys = {tokens, key}, .values = {tokens, value}});
    }
  }
  return history;
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

/// The numbers of a stored row of row_dim numbers that are a head's; those behind must be zeros.
std::vector<double> head_numbers(KvDtype dtype, std::int64_t row_dim, std::int64_t dim,
                                 const std::byte* row) {
  std::vector<double> numbers = decode_kv_row(dtype, row_dim, row);
  EXPECT_TRUE(std::all_of(numbers.begin() + dim, numbers.end(), [](double x) { return x == 0; }))
      << "behind the " << dim << " numbers of a thin head";
  numbers.resize(static_cast<std::size_t>(dim));
  return numbers;
}

/// Calls visit(layer, KV head, position, stored key, stored value) for every slot that holds a
/// position in [from, length): the numbers of both.
template <class Visit>
void for_each_stored(Sequence& sequence, const AttentionCase& c, std::int64_t from, Visit visit) {
  KvCache& cache = sequence.cache();
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const auto arena = sequence.arena(head_class);
    const auto slots = cache.positions(head_class);
    const bool full = cache.geometry().plan.classes[head_class].full;
    const std::byte* base = sequence.arena_begin(head_class);
    for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
      const LayerShape shape = shape_of_layer(c, layer);
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
          const std::int32_t head = heads[static_cast<std::size_t>(h)];
          const HeadColumns& columns = shape.heads[static_cast<std::size_t>(head)];
          visit(layer, head, position, head_numbers(c.dtype, block.key_dim, columns.key_dim, key),
                head_numbers(c.dtype, block.value_dim, columns.value_dim, value));
        }
      }
    }
  }
}

/// What the backend's cache makes of all keys and values, each number checked against its input.
History stored_history(const Backend& backend, const AttentionCase& c,
                       const AttentionInputs& inputs) {
  const HeadPlan plan = HeadPlan::uniform(static_cast<std::int32_t>(c.layers()), c.kv_heads, {});
  SequenceConfig config = config_of(c, plan);
  config.max_tokens = c.tokens();
  Sequence sequence(backend, config);

  sequence.begin(c.tokens());
  std::vector<LayerShape> shapes;
  std::vector<DeviceRows> qkv;
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    shapes.push_back(shape_of_layer(c, layer));
    qkv.emplace_back(sequence.ops(), c.tokens(), shapes.back().qkv_cols);
    qkv.back().write(inputs[static_cast<std::size_t>(layer)]);
  }
  run(sequence.ops(), c.tokens(), [&] {
    for (std::size_t layer = 0; layer < inputs.size(); ++layer) {
      sequence.ops().commit(qkv[layer].view(), shapes[layer],
                            sequence.cache().layer(static_cast<std::int64_t>(layer)));
    }
  });
  sequence.cache().advance(c.tokens());

  History history = empty_history(c);
  std::int64_t outside = 0;
  const auto take = [&](const std::vector<double>& numbers, const float* input) {
    const std::vector<double> original(input, input + numbers.size());
    const auto bound = kv_bound(c.dtype, original);
    for (std::size_t d = 0; d < numbers.size(); ++d) {
      if (!(std::abs(numbers[d] - original[d]) <= bound[d])) ++outside;
    }
    return numbers;
  };
  for_each_stored(
      sequence, c, 0,
      [&](std::int64_t layer, std::int32_t head, std::int64_t position,
          const std::vector<double>& key, const std::vector<double>& value) {
        const LayerShape& shape = shapes[static_cast<std::size_t>(layer)];
        const HeadColumns& columns = shape.heads[static_cast<std::size_t>(head)];
        const float* row =
            inputs[static_cast<std::size_t>(layer)].data() + position * shape.qkv_cols;
        auto& kept = history[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
        kept.keys[static_cast<std::size_t>(position)] = take(key, row + columns.key);
        kept.values[static_cast<std::size_t>(position)] = take(value, row + columns.value);
      });
  EXPECT_EQ(outside, 0) << "stored numbers out of bounds";
  return history;
}

struct Expected {
  std::vector<Matrix> value;  // [layer][tokens, out_cols]
  std::vector<Matrix> bound;
};

Expected expected_of(const AttentionCase& c, const HeadPlan& plan, const AttentionInputs& inputs,
                     const History& history, Rounding rounding) {
  const double scale = shape_of(c).scale;
  Expected expected;
  std::vector<std::int64_t> positions;
  std::vector<double> weights;
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    const LayerShape shape = shape_of_layer(c, layer);
    Matrix value(c.tokens(), shape.out_cols);
    Matrix bound(c.tokens(), shape.out_cols);
    const LayerHeads& heads = plan.layers[static_cast<std::size_t>(layer)];
    for (std::int32_t at = 0; at < c.kv_heads; ++at) {
      const HeadClass& head_class = plan.classes[at < heads.retrieval ? kRetrieval : kStreaming];
      const std::int32_t head = heads.order[static_cast<std::size_t>(at)];
      const auto& seen = history[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
      const HeadColumns& columns = shape.heads[static_cast<std::size_t>(head)];
      for (std::int64_t t = std::max<std::int64_t>(0, c.tokens() - c.checked_queries);
           t < c.tokens(); ++t) {
        for (std::int32_t g = 0; g < c.group; ++g) {
          const float* row = inputs[static_cast<std::size_t>(layer)].data() + t * shape.qkv_cols +
                             columns.query + g * columns.key_dim;
          const std::vector<double> query(row, row + columns.key_dim);
          const auto out =
              reference::attention(query, scale, t, head_class, seen, positions, weights);
          const auto limit = attention_bound(rounding, query, scale, seen, positions, weights, out);
          const std::int64_t to = columns.out + g * columns.value_dim;
          std::copy(out.begin(), out.end(), value.row(t) + to);
          std::copy(limit.begin(), limit.end(), bound.row(t) + to);
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
               const AttentionInputs& inputs, const History& history, const Expected& expected) {
  const SequenceConfig config = config_of(c, plan);
  Sequence sequence(backend, config);
  Ops& ops = sequence.ops();

  std::int64_t past = 0;
  for (std::int64_t tokens : c.chunks) {
    SCOPED_TRACE(fmt::format("chunk of {} at {}", tokens, past));
    sequence.begin(tokens);
    std::vector<std::vector<std::byte>> before;
    for (int k = 0; k < kHeadClasses; ++k) before.push_back(sequence.arena(k));
    for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
      SCOPED_TRACE(fmt::format("layer {}", layer));
      const KvLayer& kv = sequence.cache().layer(layer);
      const LayerShape shape = shape_of_layer(c, layer);
      const std::int64_t cols = shape.qkv_cols;
      const std::int64_t out_cols = shape.out_cols;
      DeviceRows qkv(ops, config.max_tokens, cols);
      DeviceRows out(ops, config.max_tokens, out_cols);
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
                        const std::vector<double>& key, const std::vector<double>& value) {
                      const auto& kept =
                          history[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
                      wrong += key != kept.keys[static_cast<std::size_t>(position)];
                      wrong += value != kept.values[static_cast<std::size_t>(position)];
                    });
    EXPECT_EQ(wrong, 0) << "rows that another chunking would have stored differently";
    past += tokens;
    if (testing::Test::HasFailure()) return;  // later steps would only repeat it
  }
}

}  // namespace

void PrintTo(const AttentionCase& c, std::ostream* out) { *out << c.name; }

std::vector<std::int64_t> chunks_of(std::int64_t tokens, std::int64_t chunk) {
  std::vector<std::int64_t> chunks(static_cast<std::size_t>(tokens / chunk), chunk);
  if (tokens % chunk != 0) chunks.push_back(tokens % chunk);
  return chunks;
}

void check_attention(const AttentionCase& c, std::uint64_t seed,
                     const std::function<void(AttentionInputs&)>& change) {
  Random random(seed);
  const HeadPlan plan = plan_of(c);
  AttentionInputs inputs = inputs_of(c, random);
  if (change) change(inputs);
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

}  // namespace sedpa::conformance
