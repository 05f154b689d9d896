#include "sedpa/backend/cpu/window_attention.h"

#include <algorithm>
#include <cmath>

#include "sedpa/attention/visible_keys.h"
#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cpu {
namespace {

constexpr std::int64_t kBlockRows = 64;  // query rows of a block, a multiple of 16
constexpr std::int64_t kTileKeys = 128;  // keys of a tile
// Keys of one piece of the keys' gradient: every row sees the sinks, few rows see another key.
constexpr std::int64_t kSinkKeys = 32;
constexpr std::int64_t kOtherKeys = 64;

/// The 16-lane width of a block.
std::int64_t padded(std::int64_t rows) { return round_up(rows, std::int64_t{16}); }

std::int64_t scratch_floats(std::int64_t head_dim) {
  return kBlockRows * (2 * head_dim + 2 * kTileKeys + 4);
}

void check(const HeadClass& window) {
  if (window.full || window.middle != 0) {
    fail("training's attention takes a window of first and last tokens, nothing else");
  }
}

}  // namespace

/// One call of forward or backward.
struct WindowAttention::Job {
  Rows qkv;
  const HeadClass& window;
  Rows out;
  Rows lse;
  Rows d_out;  // these two of backward only
  Rows d_qkv;
};

/// What a thread works in.
struct WindowAttention::Scratch {
  float* queries;    // [head_dim][padded rows], scaled
  float* d_out;      // [head_dim][padded rows]
  float* scores;     // [kTileKeys][padded rows]
  float* d_weights;  // [kTileKeys][padded rows]
  float* max;        // [padded rows]; in backward: lse
  float* sum;        // in backward: delta
  float* correction;
};

/// Rows [first, first + rows) of one query head.
struct WindowAttention::RowBlock {
  std::int32_t head;
  std::int64_t first;
  std::int64_t rows;
  Rows query;  // [rows, head_dim]
  Rows keys;   // [n, head_dim], of the head's KV head
  Rows values;

  RowBlock(const AttentionShape& shape, Rows qkv, std::int32_t query_head, std::int64_t first_row)
      : head(query_head),
        first(first_row),
        rows(std::min(kBlockRows, qkv.rows - first_row)),
        query(qkv.range(first, rows).columns(std::int64_t{head} * shape.head_dim, shape.head_dim)),
        keys(qkv.columns(shape.key_begin() + std::int64_t{head / shape.group()} * shape.head_dim,
                         shape.head_dim)),
        values(
            qkv.columns(shape.value_begin() + std::int64_t{head / shape.group()} * shape.head_dim,
                        shape.head_dim)) {}

  [[nodiscard]] Rows of(Rows all) const {
    return all.range(first, rows).columns(head * query.cols, query.cols);
  }
  /// Calls body(first key, keys) for the tiles of keys that some row of the block sees.
  template <class Body>
  void for_tiles(const HeadClass& window, const Body& body) const {
    const VisibleKeys visible = visible_keys(window, first, first + rows - 1);
    const auto run = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t key = begin; key < end; key += kTileKeys) {
        body(key, std::min(kTileKeys, end - key));
      }
    };
    run(0, visible.sinks);
    run(visible.tail_first, visible.tail_first + visible.tail);
  }
};

std::size_t WindowAttention::scratch_bytes(const TrainPlan& plan) const {
  return static_cast<std::size_t>(pool_.size() * scratch_floats(plan.attention.head_dim)) *
         sizeof(float);
}

void WindowAttention::reserve(const TrainPlan& plan) {
  shape_ = plan.attention;
  scratch_ = Pages();
  scratch_ = Pages(scratch_bytes(plan));
}

WindowAttention::Scratch WindowAttention::scratch(int thread) const {
  Scratch at{};
  float* next =
      reinterpret_cast<float*>(scratch_.data()) + thread * scratch_floats(shape_.head_dim);
  const auto take = [&](std::int64_t rows) {
    float* area = next;
    next += rows * kBlockRows;
    return area;
  };
  at.queries = take(shape_.head_dim);
  at.d_out = take(shape_.head_dim);
  at.scores = take(kTileKeys);
  at.d_weights = take(kTileKeys);
  at.max = take(1);
  at.sum = take(1);
  at.correction = take(1);
  return at;
}

/// to[d][r] = factor * from[r][d]; lanes without a row become zeros.
static void transpose(Rows from, float factor, float* to) {
  const std::int64_t width = padded(from.rows);
  for (std::int64_t d = 0; d < from.cols; ++d) {
    float* lanes = to + d * width;
    for (std::int64_t r = 0; r < from.rows; ++r) lanes[r] = factor * from.row(r)[d];
    std::fill(lanes + from.rows, lanes + width, 0.0f);
  }
}

/// Scaled scores of the block's rows with keys [key, key + keys), masked.
void WindowAttention::score(const Job& job, const RowBlock& block, std::int64_t key,
                            std::int64_t keys, const Scratch& at) const {
  const std::int64_t width = padded(block.rows);
  kernels_.small_product({.a = block.keys.row(key),
                          .a_row = block.keys.stride,
                          .b = at.queries,
                          .b_row = width,
                          .c = at.scores,
                          .c_row = width,
                          .rows = keys,
                          .cols = width,
                          .depth = shape_.head_dim});
  // The rows that see a key are a run of rows.
  for (std::int64_t j = key; j < key + keys; ++j) {
    float* scores = at.scores + (j - key) * width;
    const std::int64_t begin = std::clamp<std::int64_t>(j - block.first, 0, block.rows);
    const std::int64_t end =
        j < job.window.sink
            ? block.rows
            : std::clamp<std::int64_t>(j + job.window.recent - block.first, 0, block.rows);
    std::fill(scores, scores + begin, kMaskedScore);
    std::fill(scores + std::max(begin, end), scores + block.rows, kMaskedScore);
  }
}

void WindowAttention::forward(Rows qkv, const HeadClass& window, Rows out, Rows lse) {
  check(window);
  const Job job{.qkv = qkv, .window = window, .out = out, .lse = lse, .d_out = {}, .d_qkv = {}};
  const std::int64_t blocks = ceil_div(qkv.rows, kBlockRows);
  pool_.for_each(shape_.query_heads * blocks, [&](std::int64_t piece, int thread) {
    const RowBlock block(shape_, qkv, static_cast<std::int32_t>(piece / blocks),
                         piece % blocks * kBlockRows);
    forward_block(job, block, scratch(thread));
  });
}

void WindowAttention::forward_block(const Job& job, const RowBlock& block,
                                    const Scratch& at) const {
  const std::int64_t width = padded(block.rows);
  const Rows out = block.of(job.out);
  transpose(block.query, shape_.scale, at.queries);
  std::fill_n(at.max, width, kNoScore);
  std::fill_n(at.sum, width, 0.0f);
  for (std::int64_t r = 0; r < block.rows; ++r) std::fill_n(out.row(r), out.cols, 0.0f);
  const auto scale_rows = [&](const auto& factor) {
    for (std::int64_t r = 0; r < block.rows; ++r) {
      float* row = out.row(r);
      const float by = factor(r);
      for (std::int64_t d = 0; d < out.cols; ++d) row[d] *= by;
    }
  };

  block.for_tiles(job.window, [&](std::int64_t key, std::int64_t keys) {
    score(job, block, key, keys, at);
    kernels_.softmax_step({.scores = at.scores, .keys = keys, .rows = width}, at.max, at.sum,
                          at.correction);
    scale_rows([&](std::int64_t r) { return at.correction[r]; });
    kernels_.small_product({.a = at.scores,
                            .a_row = 1,
                            .a_step = width,
                            .b = block.values.row(key),
                            .b_row = block.values.stride,
                            .c = out.data,
                            .c_row = out.stride,
                            .rows = block.rows,
                            .cols = out.cols,
                            .depth = keys,
                            .add = true});
  });
  scale_rows([&](std::int64_t r) { return 1.0f / at.sum[r]; });
  for (std::int64_t r = 0; r < block.rows; ++r) {
    job.lse.row(block.first + r)[block.head] = at.max[r] + std::log(at.sum[r]);
  }
}

void WindowAttention::backward(Rows qkv, const HeadClass& window, Rows out, Rows lse, Rows d_out,
                               Rows d_qkv) {
  check(window);
  const Job job{
      .qkv = qkv, .window = window, .out = out, .lse = lse, .d_out = d_out, .d_qkv = d_qkv};
  const std::int64_t blocks = ceil_div(qkv.rows, kBlockRows);
  pool_.for_each(shape_.query_heads * blocks, [&](std::int64_t piece, int thread) {
    const RowBlock block(shape_, qkv, static_cast<std::int32_t>(piece / blocks),
                         piece % blocks * kBlockRows);
    backward_queries(job, block, scratch(thread));
  });

  // The sinks' pieces are the longest: they come first.
  const std::int64_t sinks = std::min<std::int64_t>(window.sink, qkv.rows);
  const std::int64_t sink_pieces = ceil_div(sinks, kSinkKeys);
  const std::int64_t pieces = sink_pieces + ceil_div(qkv.rows - sinks, kOtherKeys);
  pool_.for_each(shape_.kv_heads * pieces, [&](std::int64_t index, int thread) {
    const std::int64_t piece = index / shape_.kv_heads;
    const std::int64_t key =
        piece < sink_pieces ? piece * kSinkKeys : sinks + (piece - sink_pieces) * kOtherKeys;
    const std::int64_t keys = piece < sink_pieces ? std::min(kSinkKeys, sinks - key)
                                                  : std::min(kOtherKeys, qkv.rows - key);
    backward_keys(job, static_cast<std::int32_t>(index % shape_.kv_heads), key, keys,
                  scratch(thread));
  });
}

/// What the block's rows need before they meet keys: queries and d_out across the lanes, lse, and
/// delta = d_out . out, the weighted mean of what each weight's gradient is.
void WindowAttention::prepare_backward(const Job& job, const RowBlock& block,
                                       const Scratch& at) const {
  transpose(block.query, shape_.scale, at.queries);
  transpose(block.of(job.d_out), 1.0f, at.d_out);
  const std::int64_t width = padded(block.rows);
  for (std::int64_t r = 0; r < width; ++r) {
    at.max[r] = at.sum[r] = 0;
    if (r >= block.rows) continue;
    at.max[r] = job.lse.row(block.first + r)[block.head];
    const float* out = block.of(job.out).row(r);
    const float* d_out = block.of(job.d_out).row(r);
    for (std::int64_t d = 0; d < shape_.head_dim; ++d) at.sum[r] += out[d] * d_out[d];
  }
}

/// Weights of keys [key, key + keys) in at.scores, the gradient of their unscaled scores in
/// at.d_weights.
void WindowAttention::weigh_backward(const Job& job, const RowBlock& block, std::int64_t key,
                                     std::int64_t keys, const Scratch& at) const {
  const std::int64_t width = padded(block.rows);
  score(job, block, key, keys, at);
  kernels_.small_product({.a = block.values.row(key),
                          .a_row = block.values.stride,
                          .b = at.d_out,
                          .b_row = width,
                          .c = at.d_weights,
                          .c_row = width,
                          .rows = keys,
                          .cols = width,
                          .depth = shape_.head_dim});
  kernels_.softmax_backward({.scores = at.scores, .keys = keys, .rows = width}, at.d_weights,
                            at.max, at.sum, shape_.scale);
}

void WindowAttention::backward_queries(const Job& job, const RowBlock& block,
                                       const Scratch& at) const {
  prepare_backward(job, block, at);
  const Rows d_query = block.of(job.d_qkv);
  bool add = false;
  block.for_tiles(job.window, [&](std::int64_t key, std::int64_t keys) {
    weigh_backward(job, block, key, keys, at);
    kernels_.small_product({.a = at.d_weights,
                            .a_row = 1,
                            .a_step = padded(block.rows),
                            .b = block.keys.row(key),
                            .b_row = block.keys.stride,
                            .c = d_query.data,
                            .c_row = d_query.stride,
                            .rows = block.rows,
                            .cols = d_query.cols,
                            .depth = keys,
                            .add = add});
    add = true;
  });
}

void WindowAttention::backward_keys(const Job& job, std::int32_t kv_head, std::int64_t key,
                                    std::int64_t keys, const Scratch& at) const {
  const std::int64_t begin = std::int64_t{kv_head} * shape_.head_dim;
  const Rows own = job.d_qkv.range(key, keys);
  const Rows d_keys = own.columns(shape_.key_begin() + begin, shape_.head_dim);
  const Rows d_values = own.columns(shape_.value_begin() + begin, shape_.head_dim);
  // Keys of a piece are all sinks or none.
  const std::int64_t last_row = key < job.window.sink
                                    ? job.qkv.rows
                                    : std::min(job.qkv.rows, key + keys - 1 + job.window.recent);
  bool add = false;
  for (std::int32_t head = kv_head * shape_.group(); head < (kv_head + 1) * shape_.group();
       ++head) {
    for (std::int64_t row = key / kBlockRows * kBlockRows; row < last_row; row += kBlockRows) {
      const RowBlock block(shape_, job.qkv, head, row);
      prepare_backward(job, block, at);
      weigh_backward(job, block, key, keys, at);
      const auto gather = [&](const float* weights, Rows rows, Rows to) {
        kernels_.small_product({.a = weights,
                                .a_row = padded(block.rows),
                                .b = rows.data,
                                .b_row = rows.stride,
                                .c = to.data,
                                .c_row = to.stride,
                                .rows = keys,
                                .cols = to.cols,
                                .depth = block.rows,
                                .add = add});
      };
      gather(at.d_weights, block.query, d_keys);
      gather(at.scores, block.of(job.d_out), d_values);
      add = true;
    }
  }
}

}  // namespace sedpa::cpu
