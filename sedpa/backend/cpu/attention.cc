#include "sedpa/backend/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <vector>

#include "sedpa/attention/online_softmax.h"
#include "sedpa/attention/visible_keys.h"
#include "sedpa/attention/work_list.h"
#include "sedpa/backend/cpu/attention_groups.h"
#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/backend/cpu/attention_scratch.h"
#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/memory.h"

namespace sedpa {
namespace cpu {

// Defined by the compilations of attention_kernels_rows.cc that this program has.
namespace baseline {
const AttentionKernels& attention_table();
}
namespace avx2 {
const AttentionKernels& attention_table();
}
namespace avx512 {
const AttentionKernels& attention_table();
}

const AttentionKernels& attention_kernels(Isa isa) {
  (void)kernels(isa);  // throws when this machine or program does not have them
  switch (isa) {
    case Isa::avx512:
#if defined(SEDPA_HAVE_AVX512)
      return avx512::attention_table();
#endif
    case Isa::avx2:
#if defined(SEDPA_HAVE_AVX2)
      return avx2::attention_table();
#endif
    case Isa::baseline:
      break;
  }
  return baseline::attention_table();
}

}  // namespace cpu

namespace {

using cpu::AttentionScratch;
using cpu::kDirectKeys;
using cpu::kKeyTile;
using cpu::ThreadScratch;

// One token's query rows go the direct way up to this many of them; a tile wastes fewer lanes then.
constexpr std::int64_t kMostDirectRows = 8;
constexpr std::int64_t kDirectGrain = 32;  // keys; cuts of key ranges
constexpr std::int64_t kTileGrain = 64;
// Rows of the chunk that one thread encodes at a time, and below which one thread does all.
constexpr std::int64_t kEncodeRows = 32;
constexpr std::int64_t kSmallEncode = 64;

// A head class in the step at hand.
struct StepClass {
  HeadClass kept;
  VisibleKeys stored;  // of the cache, before the chunk
  std::vector<std::int32_t>
      slots;                      // [stored.count()], by rank; empty for a full class: slot = rank
  std::vector<SlotWrite> writes;  // where commit stores; empty for a full class: past + row
};

// Keys and values of one KV head: in the cache, and the chunk's own, in rows of the same numbers.
struct HeadSource {
  const HeadColumns* columns = nullptr;
  const KvBlock* block = nullptr;
  std::int32_t head = 0;                  // in the block
  const std::byte* own_keys = nullptr;    // [tokens, key_row_bytes]
  const std::byte* own_values = nullptr;  // [tokens, value_row_bytes]
};

}  // namespace

struct CpuAttention::State {
  State(ThreadPool& pool_of_ops, Isa isa, Compute how)
      : pool(pool_of_ops), kernels(cpu::attention_kernels(isa)), compute(how) {}

  ThreadPool& pool;
  const cpu::AttentionKernels& kernels;
  Compute compute;

  // The plan.
  AttentionShape shape;
  std::int64_t max_tokens = 0;
  std::int64_t max_context = 0;
  AttentionScratch scratch;
  Pages memory;
  std::unique_ptr<std::atomic<std::int32_t>[]> arrived;  // [merges], parts done of each

  // The step.
  std::int64_t past = 0;
  std::int64_t tokens = 0;
  KvDtype dtype = KvDtype::f16;
  std::int64_t own_bytes = 0;  // from head to head of the chunk's own rows
  bool direct = false;
  StepClass classes[kHeadClasses];
  std::vector<WorkList> lists;  // [kv_heads + 1], by the layer's number of retrieval heads
  std::vector<bool> listed;     // [kv_heads + 1]

  // The operation.
  Rows qkv;
  Rows out;
  const LayerShape* layer_shape = nullptr;
  const KvLayer* layer = nullptr;
  const WorkList* list = nullptr;

  void make_lists(const HeadPlan& plan);
  template <class Body>
  void for_rows(std::int64_t rows, std::int64_t heads, const Body& body);
  void encode_own();
  void run_piece(const WorkPiece& piece, int thread);
  void run_tile(const WorkPiece& piece, const HeadSource& source, const ThreadScratch& room);
  void run_direct(const WorkPiece& piece, const HeadSource& source, const ThreadScratch& room);
  void finish_merge(const WorkMerge& merge);
  [[nodiscard]] HeadSource source_of(const WorkPiece& piece) const;

  void check(const LayerShape& of, const KvLayer& cache) const;
  [[nodiscard]] std::int32_t kv_head(std::int32_t head_class, std::int32_t head) const {
    return layer->heads->heads(head_class)[head];
  }
  [[nodiscard]] const HeadColumns& columns(std::int32_t kv_head) const {
    return layer_shape->heads[static_cast<std::size_t>(kv_head)];
  }
  [[nodiscard]] float* out_row(const HeadColumns& head, std::int64_t token, std::int64_t g) const {
    return out.row(token) + head.out + g * head.value_dim;
  }
};

// --- Life and plan
// --------------------------------------------------------------------------------

CpuAttention::CpuAttention(ThreadPool& pool, Isa isa, Compute compute)
    : state_(std::make_unique<State>(pool, isa, compute)) {}

CpuAttention::~CpuAttention() = default;

std::size_t CpuAttention::scratch_bytes(const OpsPlan& plan, int threads, Compute /*compute*/) {
  return AttentionScratch(plan.attention, plan.max_tokens, threads).bytes;
}

void CpuAttention::reserve(const OpsPlan& plan) {
  State& s = *state_;
  s.shape = plan.attention;
  s.max_tokens = plan.max_tokens;
  s.max_context = plan.max_context;
  s.scratch = AttentionScratch(plan.attention, plan.max_tokens, s.pool.size());
  s.memory = Pages();  // give the old ones back first
  s.memory = Pages(s.scratch.bytes);
  s.arrived = std::make_unique<std::atomic<std::int32_t>[]>(
      static_cast<std::size_t>(max_partials(s.pool.size())));
  s.lists.assign(s.shape.kv_heads + 1, {});
  s.tokens = 0;
}

// --- A step
// ---------------------------------------------------------------------------------------

void CpuAttention::begin_step(const Step& step, const KvCache& cache) {
  State& s = *state_;
  const KvGeometry& geometry = cache.geometry();
  const auto tokens = static_cast<std::int64_t>(step.tokens.size());
  if (tokens < 1 || tokens > s.max_tokens || step.past < 0 || step.past > s.max_context - tokens) {
    fail("attention step of {} tokens after {}: reserved for {} tokens in a context of {}", tokens,
         step.past, s.max_tokens, s.max_context);
  }
  if (cache.length() != step.past) {
    fail("attention step begins at {}: the KV cache holds {} tokens", step.past, cache.length());
  }
  if (geometry.head_dim != s.shape.head_dim) {
    fail("KV cache has head size {}: reserved for {}", geometry.head_dim, s.shape.head_dim);
  }
  s.past = step.past;
  s.tokens = tokens;
  s.dtype = geometry.dtype;
  s.own_bytes = tokens * kv_row_bytes(geometry.dtype, geometry.head_dim);
  s.direct = tokens == 1 && s.shape.group() <= kMostDirectRows;

  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    StepClass& of = s.classes[head_class];
    of.kept = geometry.plan.classes[head_class];
    of.stored = stored_keys(of.kept, step.past);
    of.slots.clear();
    of.writes.clear();
    if (of.kept.full) {
      if (tokens > geometry.context - step.past) {
        fail("KV cache holds {} of {} tokens: no room for {} more", step.past, geometry.context,
             tokens);
      }
      continue;
    }
    of.writes = cache.plan_commit(head_class, tokens);
    of.slots.resize(of.stored.count());
    const std::span<const std::int32_t> positions = cache.positions(head_class);
    for (std::size_t slot = 0; slot < positions.size(); ++slot) {
      if (positions[slot] >= 0) {
        of.slots[of.stored.rank(positions[slot])] = static_cast<std::int32_t>(slot);
      }
    }
  }
  s.make_lists(geometry.plan);
}

void CpuAttention::State::make_lists(const HeadPlan& plan) {
  HeadClass kept[kHeadClasses];
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    kept[head_class] = classes[head_class].kept;
  }
  listed.assign(shape.kv_heads + 1, false);
  for (const LayerHeads& heads : plan.layers) {
    if (static_cast<std::int32_t>(heads.order.size()) != shape.kv_heads) {
      fail("head plan has a layer of {} KV heads: reserved for {}", heads.order.size(),
           shape.kv_heads);
    }
    if (listed[heads.retrieval]) continue;
    listed[heads.retrieval] = true;
    make_work_list({.classes = kept,
                    .heads = {heads.count(kRetrieval), heads.count(kStreaming)},
                    .group = shape.group(),
                    .past = past,
                    .tokens = tokens,
                    .tile_tokens = cpu::tile_tokens(shape),
                    .key_grain = direct ? kDirectGrain : kTileGrain,
                    .threads = pool.size()},
                   lists[heads.retrieval]);
  }
}

// --- Attention
// ------------------------------------------------------------------------------------

void CpuAttention::attention(Rows qkv, const LayerShape& shape, const KvLayer& layer, Rows out) {
  State& s = *state_;
  s.check(shape, layer);
  s.qkv = qkv;
  s.out = out;
  s.layer_shape = &shape;
  s.layer = &layer;
  s.list = &s.lists[layer.heads->retrieval];
  s.encode_own();
  for (std::size_t i = 0; i < s.list->merges.size(); ++i) {
    s.arrived[i].store(0, std::memory_order_relaxed);
  }
  s.pool.for_each(static_cast<std::int64_t>(s.list->tasks.size()),
                  [&s](std::int64_t index, int thread) {
                    const WorkTask& task = s.list->tasks[index];
                    for (std::int32_t i = 0; i < task.pieces; ++i) {
                      s.run_piece(s.list->pieces[task.first_piece + i], thread);
                    }
                  });
}

// The plan has room for heads up to its head size, the cache for those that it was made for.
void CpuAttention::State::check(const LayerShape& of, const KvLayer& cache) const {
  if (static_cast<std::int32_t>(of.heads.size()) != shape.kv_heads ||
      cache.heads->order.size() != of.heads.size()) {
    fail("layer has {} KV heads, its cache {}: reserved for {}", of.heads.size(),
         cache.heads->order.size(), shape.kv_heads);
  }
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const KvBlock& block = cache.blocks[head_class];
    for (const std::int32_t kv_head : cache.heads->heads(head_class)) {
      const HeadColumns& head = of.heads[static_cast<std::size_t>(kv_head)];
      if (head.key_dim > block.key_dim || head.value_dim > block.value_dim) {
        fail("KV head {} has keys of {} and values of {} numbers, its cache rows of {} and {}",
             kv_head, head.key_dim, head.value_dim, block.key_dim, block.value_dim);
      }
    }
  }
}

// Calls body(head, first row, rows) for all rows of all heads; small work stays on one thread.
template <class Body>
void CpuAttention::State::for_rows(std::int64_t rows, std::int64_t heads, const Body& body) {
  if (rows * heads <= kSmallEncode) {
    for (std::int64_t head = 0; head < heads; ++head) body(head, std::int64_t{0}, rows);
    return;
  }
  const std::int64_t blocks = ceil_div(rows, kEncodeRows);
  pool.for_each(blocks * heads, [&](std::int64_t index, int) {
    const std::int64_t first = index % blocks * kEncodeRows;
    body(index / blocks, first, std::min(kEncodeRows, rows - first));
  });
}

// The chunk's own keys and values as the cache would hold them: a query must see the same numbers
// whether its neighbours came in the same chunk or in an earlier one.
void CpuAttention::State::encode_own() {
  const LayerHeads& plan = *layer->heads;
  for_rows(tokens, shape.kv_heads, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
    const std::int32_t head = plan.order[static_cast<std::size_t>(i)];
    const HeadColumns& from = columns(head);
    const KvBlock& as = layer->blocks[i < plan.retrieval ? kRetrieval : kStreaming];
    std::byte* const keys = memory.data() + scratch.own_keys + head * own_bytes;
    std::byte* const values = memory.data() + scratch.own_values + head * own_bytes;
    for (std::int64_t row = first; row < first + rows; ++row) {
      kernels.encode(dtype, qkv.row(row) + from.key, from.key_dim, as.key_dim,
                     keys + row * as.key_row_bytes);
      kernels.encode(dtype, qkv.row(row) + from.value, from.value_dim, as.value_dim,
                     values + row * as.value_row_bytes);
    }
  });
}

HeadSource CpuAttention::State::source_of(const WorkPiece& piece) const {
  const std::int32_t head = kv_head(piece.head_class, piece.head);
  return {.columns = &columns(head),
          .block = &layer->blocks[piece.head_class],
          .head = piece.head,
          .own_keys = memory.data() + scratch.own_keys + head * own_bytes,
          .own_values = memory.data() + scratch.own_values + head * own_bytes};
}

void CpuAttention::State::run_piece(const WorkPiece& piece, int thread) {
  const ThreadScratch room(scratch, memory.data(), thread);
  if (direct)
    run_direct(piece, source_of(piece), room);
  else
    run_tile(piece, source_of(piece), room);
  if (piece.merge < 0) return;
  // Whoever brings the last part merges all, in the order of the keys.
  const WorkMerge& merge = list->merges[piece.merge];
  if (arrived[piece.merge].fetch_add(1, std::memory_order_acq_rel) + 1 == merge.partials) {
    finish_merge(merge);
  }
}

void CpuAttention::State::finish_merge(const WorkMerge& merge) {
  const HeadColumns& head = columns(kv_head(merge.head_class, merge.head));
  const std::int64_t group = shape.group();
  for (std::int64_t row = 0; row < merge.tokens * group; ++row) {
    merge_softmax_parts(
        merge.partials, head.value_dim,
        [&](std::int64_t i) {
          const cpu::PartialRoom part(scratch, memory.data(), merge.first_partial + i);
          return SoftmaxPart{part.max[row], part.sum[row], part.out + row * scratch.padded_dim};
        },
        out_row(head, merge.first_token + row / group, row % group));
  }
}

// --- Decode: the rows of one token
// ----------------------------------------------------------------

void CpuAttention::State::run_direct(const WorkPiece& piece, const HeadSource& source,
                                     const ThreadScratch& room) {
  const auto rows = static_cast<int>(shape.group());
  const auto padded = static_cast<int>(scratch.padded_dim);
  const HeadColumns& head = *source.columns;
  const KvBlock& block = *source.block;
  const float scale = shape.scale * std::numbers::log2e_v<float>;

  float* queries = reinterpret_cast<float*>(room.queries);
  const float* from = qkv.row(piece.first_token) + head.query;
  std::fill(queries, queries + rows * padded, 0.0f);
  for (int r = 0; r < rows; ++r) {
    for (int d = 0; d < head.key_dim; ++d) {
      queries[r * padded + d] = from[r * head.key_dim + d] * scale;
    }
    room.max[r] = cpu::kNoScore;
    room.sum[r] = 0.0f;
  }
  std::fill(room.out, room.out + rows * padded, 0.0f);
  const cpu::DirectRows direct_rows = {.rows = rows,
                                       .key_dim = head.key_dim,
                                       .value_dim = head.value_dim,
                                       .key_row_dim = block.key_dim,
                                       .value_row_dim = block.value_dim,
                                       .padded = padded,
                                       .queries = queries,
                                       .max = room.max,
                                       .sum = room.sum,
                                       .out = room.out,
                                       .scores = room.scores,
                                       .parts = room.bias};

  // One query sees exactly what is stored, in rank order, and then itself. Addresses are a step
  // ahead, so that rows are asked for before they are needed.
  const StepClass& of = classes[piece.head_class];
  const std::int64_t stored = of.stored.count();
  const std::byte* cache_keys = block.key(source.head, 0);
  const std::byte* cache_values = block.value(source.head, 0);
  const std::int64_t key_bytes = block.key_row_bytes;
  const std::int64_t value_bytes = block.value_row_bytes;
  const auto gather = [&](std::int64_t begin, int to) {  // the step that begins there
    const std::byte** key_rows = room.key_rows + to * kDirectKeys;
    const std::byte** value_rows = room.value_rows + to * kDirectKeys;
    const auto count =
        static_cast<int>(std::clamp<std::int64_t>(piece.key_end - begin, 0, kDirectKeys));
    const auto cached = static_cast<int>(std::clamp<std::int64_t>(stored - begin, 0, count));
    if (of.kept.full) {
      for (int i = 0; i < cached; ++i) {
        key_rows[i] = cache_keys + (begin + i) * key_bytes;
        value_rows[i] = cache_values + (begin + i) * value_bytes;
      }
    } else {
      for (int i = 0; i < cached; ++i) {
        key_rows[i] = cache_keys + of.slots[begin + i] * key_bytes;
        value_rows[i] = cache_values + of.slots[begin + i] * value_bytes;
      }
    }
    if (cached < count) {
      key_rows[cached] = source.own_keys;
      value_rows[cached] = source.own_values;
    }
    return count;
  };
  gather(piece.key_begin, 0);
  int half = 0;
  for (std::int64_t at = piece.key_begin; at < piece.key_end; at += kDirectKeys) {
    const int later = gather(at + kDirectKeys, 1 - half);
    kernels.step_direct(
        direct_rows, dtype,
        {.keys = room.key_rows + half * kDirectKeys,
         .values = room.value_rows + half * kDirectKeys,
         .count = static_cast<int>(std::min<std::int64_t>(kDirectKeys, piece.key_end - at)),
         .later_keys = room.key_rows + (1 - half) * kDirectKeys,
         .later_values = room.value_rows + (1 - half) * kDirectKeys,
         .later_count = later,
         .key_row_bytes = key_bytes,
         .value_row_bytes = value_bytes});
    half = 1 - half;
  }

  if (piece.partial >= 0) {
    const cpu::PartialRoom part(scratch, memory.data(), piece.partial);
    std::copy(room.max, room.max + rows, part.max);
    std::copy(room.sum, room.sum + rows, part.sum);
    std::copy(room.out, room.out + rows * padded, part.out);
    return;
  }
  for (int r = 0; r < rows; ++r) {
    float* to = out_row(head, piece.first_token, r);
    const float share = 1.0f / room.sum[r];
    for (int d = 0; d < head.value_dim; ++d) to[d] = room.out[r * padded + d] * share;
  }
}

// --- Prefill: tiles of query rows
// -----------------------------------------------------------------

void CpuAttention::State::run_tile(const WorkPiece& piece, const HeadSource& source,
                                   const ThreadScratch& room) {
  const StepClass& of = classes[piece.head_class];
  const std::int64_t group = shape.group();
  const HeadColumns& head = *source.columns;
  const KvBlock& block = *source.block;
  const std::int64_t real_rows = piece.tokens * group;
  const auto rows = static_cast<int>(round_up<std::int64_t>(real_rows, 16));
  const auto how = static_cast<int>(compute);

  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t token = piece.first_token + std::min(row / group, piece.tokens - 1);
    room.query_rows[row] =
        row < real_rows ? qkv.row(token) + head.query + row % group * head.key_dim : nullptr;
    room.position[row] = static_cast<std::int32_t>(past + token);
    room.stride[row] =
        of.kept.middle > 0 ? static_cast<std::int32_t>(of.kept.middle_stride(past + token)) : 0;
  }
  const cpu::QueryTile tile = {.rows = rows,
                               .key_dim = head.key_dim,
                               .value_dim = head.value_dim,
                               .key_row_dim = block.key_dim,
                               .value_row_dim = block.value_dim,
                               .value_dims = round_up(head.value_dim, 8),
                               .queries = room.queries,
                               .out = room.out,
                               .max = room.max,
                               .sum = room.sum,
                               .position = room.position,
                               .stride = room.stride,
                               .full = of.kept.full,
                               .sink = of.kept.sink,
                               .recent = of.kept.recent,
                               .keys = room.keys,
                               .values = room.values,
                               .scores = room.scores,
                               .weights = room.weights,
                               .bias = room.bias};
  kernels.begin_tile[how](tile, room.query_rows, shape.scale * std::numbers::log2e_v<float>);

  const cpu::TileQueries queries = {.kept = of.kept,
                                    .first = past + piece.first_token,
                                    .tokens = piece.tokens,
                                    .group = group,
                                    .rows = rows};
  const VisibleKeys keys = visible_keys(of.kept, queries.first, queries.first + piece.tokens - 1);
  const auto gather = [&](std::int64_t begin, int half) {
    const auto count = static_cast<int>(std::min<std::int64_t>(kKeyTile, piece.key_end - begin));
    const std::byte** key_rows = room.key_rows + half * kKeyTile;
    const std::byte** value_rows = room.value_rows + half * kKeyTile;
    std::int32_t* positions = room.positions + half * kKeyTile;
    for (int i = 0; i < count; ++i) {
      const std::int64_t position = keys.position(begin + i);
      positions[i] = static_cast<std::int32_t>(position);
      if (position >= past) {
        key_rows[i] = source.own_keys + (position - past) * block.key_row_bytes;
        value_rows[i] = source.own_values + (position - past) * block.value_row_bytes;
      } else {
        const std::int64_t slot = of.kept.full ? position : of.slots[of.stored.rank(position)];
        key_rows[i] = block.key(source.head, slot);
        value_rows[i] = block.value(source.head, slot);
      }
    }
    for (int i = count; i < round_up(count, 8); ++i) {
      positions[i] = std::numeric_limits<std::int32_t>::max();
    }
    return count;
  };
  int half = 0;
  int count = gather(piece.key_begin, half);
  for (std::int64_t at = piece.key_begin; at < piece.key_end; at += kKeyTile) {
    const int next = at + kKeyTile < piece.key_end ? gather(at + kKeyTile, 1 - half) : 0;
    const std::int32_t* positions = room.positions + half * kKeyTile;
    cpu::find_groups(queries, keys, at, {positions, static_cast<std::size_t>(count)}, room.groups);
    kernels.step_tile[how](tile, dtype,
                           {.keys = room.key_rows + half * kKeyTile,
                            .values = room.value_rows + half * kKeyTile,
                            .positions = positions,
                            .count = count,
                            .groups = room.groups,
                            .next_keys = room.key_rows + (1 - half) * kKeyTile,
                            .next_values = room.value_rows + (1 - half) * kKeyTile,
                            .next_count = next,
                            .key_row_bytes = block.key_row_bytes,
                            .value_row_bytes = block.value_row_bytes});
    half = 1 - half;
    count = next;
  }

  const bool whole = piece.partial < 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    room.out_rows[row] = nullptr;
    if (row >= real_rows) continue;
    if (whole) {
      room.out_rows[row] = out_row(head, piece.first_token + row / group, row % group);
    } else {
      const cpu::PartialRoom part(scratch, memory.data(), piece.partial);
      part.max[row] = room.max[row];
      part.sum[row] = room.sum[row];
      room.out_rows[row] = part.out + row * scratch.padded_dim;
    }
  }
  kernels.end_tile(tile, whole, room.out_rows);
}

// --- Commit
// ---------------------------------------------------------------------------------------

void CpuAttention::commit(Rows qkv, const LayerShape& shape, const KvLayer& layer) {
  State& s = *state_;
  s.check(shape, layer);
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const KvBlock& block = layer.blocks[head_class];
    const StepClass& of = s.classes[head_class];
    const std::span<const std::int32_t> heads = layer.heads->heads(head_class);
    const bool full = of.kept.full;
    const std::int64_t rows = full ? s.tokens : static_cast<std::int64_t>(of.writes.size());
    s.for_rows(rows, block.heads, [&](std::int64_t head, std::int64_t first, std::int64_t count) {
      const HeadColumns& from = shape.heads[static_cast<std::size_t>(heads[head])];
      for (std::int64_t i = first; i < first + count; ++i) {
        const std::int64_t row = full ? i : of.writes[i].row;
        const std::int64_t slot = full ? s.past + i : of.writes[i].slot;
        s.kernels.encode(s.dtype, qkv.row(row) + from.key, from.key_dim, block.key_dim,
                         block.key(head, slot));
        s.kernels.encode(s.dtype, qkv.row(row) + from.value, from.value_dim, block.value_dim,
                         block.value(head, slot));
      }
    });
  }
}

}  // namespace sedpa
