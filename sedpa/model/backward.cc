#include "sedpa/model/backward.h"

#include <algorithm>
#include <array>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/model/forward.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa {
namespace {

std::int64_t rows_of(const LiveRows& live) {
  std::int64_t rows = 0;
  for (const RowRun& run : live) rows += run.count;
  return rows;
}

/// The tail of a layer's input behind a tail of its output: `recent` - 1 rows longer, and whole
/// windows, so that documents of all lengths ask for products of the same few shapes.
std::int64_t tail_before(std::int64_t tail, const HeadClass& window) {
  return round_up(tail + window.recent - 1, std::int64_t{window.recent});
}

/// The most rows of a layer's input that can reach a counted row; `layer` = layers: those
/// themselves.
std::int64_t most_rows(const ModelConfig& config, const TrainingOptions& options,
                       std::int32_t layer) {
  if (layer == config.layers) return options.span;
  std::int64_t tail = options.span;
  for (std::int32_t i = config.layers; i > layer; --i) tail = tail_before(tail, options.window);
  return std::min(options.context, options.window.sink + tail);
}

OpsPlan ops_plan(const ModelConfig& config, const TrainingOptions& options) {
  return forward_plan(config, options.chunk, options.context, options.heads);
}

TrainPlan train_plan(const ModelConfig& config, const TrainingOptions& options) {
  const AttentionShape shape = config.attention();
  return {.attention = shape,
          .rope = config.rope(),
          .max_tokens = options.chunk,
          .max_rows = most_rows(config, options, 0),
          .max_context = options.context,
          .max_cols = std::max<std::int64_t>(
              {config.width, 2 * std::int64_t{config.mlp_width}, shape.qkv_cols()}),
          .max_rank = config.max_rank};
}

TrainingOptions checked(TrainingOptions options, const ModelConfig& config) {
  refuse_thin_heads(config, "training gates");
  if (options.context < 1 || options.context > std::int64_t{1} << 30) {
    fail("a training context of {} tokens, expected 1 to {}", options.context,
         std::int64_t{1} << 30);
  }
  if (options.span < 1 || options.span > options.context) {
    fail("{} tokens from the first counted row to the last, expected 1 to the context's {}",
         options.span, options.context);
  }
  if (options.chunk < 1) fail("chunk is {} tokens, expected at least 1", options.chunk);
  options.chunk = std::min(options.chunk, options.context);
  if (options.window.full || options.window.middle != 0 || options.window.sink < 0 ||
      options.window.recent < 1) {
    fail("gates are trained with a window of first and last tokens");
  }
  return options;
}

}  // namespace

template <class Take>
TrainingPass::Areas TrainingPass::lay_out(const ModelConfig& config, const TrainingOptions& options,
                                          const Take& take) {
  const AttentionShape shape = config.attention();
  const auto rows = [&](std::int64_t count, std::int64_t cols) {
    std::byte* data = take(static_cast<std::size_t>(count * cols) * sizeof(float));
    return Rows{reinterpret_cast<float*>(data), count, cols, cols};
  };
  const std::int64_t most = most_rows(config, options, 0);
  Areas areas;
  for (std::int32_t i = 0; i <= config.layers; ++i) {
    areas.inputs.push_back(rows(most_rows(config, options, i), config.width));
    if (i == config.layers) break;
    const StoredRows kept{
        .dtype = options.kept, .rows = most_rows(config, options, i + 1), .cols = shape.out_cols()};
    areas.kept.push_back(kept);
    areas.kept.back().data =
        take(static_cast<std::size_t>(kept.rows * row_bytes(kept.dtype, kept.cols)));
  }
  areas.target = rows(options.span, config.width);
  areas.hidden = rows(options.span, config.width);
  areas.qkv = rows(most, shape.qkv_cols());
  areas.d_qkv = rows(most, shape.qkv_cols());
  areas.windowed = rows(most, shape.out_cols());
  areas.d_windowed = rows(most, shape.out_cols());
  areas.lse = rows(most, shape.query_heads);
  areas.d_x = rows(most, config.width);
  areas.d_out = rows(most, config.width);
  areas.gates = rows(config.layers, config.kv_heads);
  areas.d_gates = rows(config.layers, config.kv_heads);
  areas.loss = rows(1, 1);
  return areas;
}

KvGeometry TrainingPass::kv_geometry(const ModelConfig& config, const TrainingOptions& options) {
  return {.plan = options.heads,
          .context = options.context,
          .head_dim = config.head_dim,
          .dtype = options.kv};
}

std::size_t TrainingPass::bytes(const ModelConfig& config, const TrainingOptions& asked, Ops& ops) {
  const TrainingOptions options = checked(asked, config);
  std::size_t bytes = ops.scratch_bytes(ops_plan(config, options)) +
                      ops.train().scratch_bytes(train_plan(config, options)) +
                      Activations::bytes(config, options.chunk, 0);
  (void)lay_out(config, options, [&](std::size_t area) -> std::byte* {
    bytes += area;
    return nullptr;
  });
  return bytes;
}

TrainingPass::TrainingPass(Ops& ops, const Model& model, const TrainingOptions& options)
    : ops_(ops),
      train_(ops.train()),
      model_(model),
      config_(model.config),
      options_(checked(options, model.config)),
      cache_([&] {
        const KvGeometry geometry = kv_geometry(config_, options_);
        std::array<std::byte*, kHeadClasses> arenas{};
        for (int i = 0; i < kHeadClasses; ++i) {
          buffers_.push_back(ops.allocate(geometry.arena_bytes(i)));
          arenas[static_cast<std::size_t>(i)] = buffers_.back().data;
        }
        return KvCache(geometry, arenas);
      }()),
      activations_(Activations::make(config_, options_.chunk, 0, ops)),
      a_(lay_out(config_, options_, [&](std::size_t bytes) {
        buffers_.push_back(ops.allocate(bytes));
        return buffers_.back().data;
      })) {
  ops.reserve(ops_plan(config_, options_));
  train_.reserve(train_plan(config_, options_));
}

std::optional<double> TrainingPass::run(const TrainingDocument& document,
                                        std::span<const float> gates, std::span<float> d_gates,
                                        const std::function<bool()>& go_on) {
  const auto goes_on = [&] { return !go_on || go_on(); };
  plan_rows(document);
  ops_.copy_from_host(reinterpret_cast<const std::byte*>(gates.data()),
                      reinterpret_cast<std::byte*>(a_.gates.data), gates.size_bytes());
  if (!teach(document, goes_on)) return std::nullopt;
  for (std::int32_t i = 0; i < config_.layers; ++i) {
    if (!goes_on()) return std::nullopt;
    student_layer(i);
  }
  loss_gradient();
  ops_.clear(a_.d_gates);
  for (std::int32_t i = config_.layers - 1; i >= 0; --i) {
    if (!goes_on()) return std::nullopt;
    layer_gradient(i);
  }
  ops_.read(a_.d_gates, d_gates.data());
  float loss = 0;
  ops_.read(a_.loss, &loss);
  return loss;
}

// --- Rows ---------------------------------------------------------------------------------------

void TrainingPass::plan_rows(const TrainingDocument& document) {
  const auto tokens = std::ssize(document.tokens);
  if (tokens > options_.context) {
    fail("a document of {} tokens was given, the context has {}", tokens, options_.context);
  }
  if (document.rows.empty()) fail("a document without counted rows was given");
  LiveRows counted;
  std::int64_t next = 0;  // the lowest position that may come
  for (const std::int64_t row : document.rows) {
    if (row < next || row >= tokens) {
      fail("counted row {} of a document of {} tokens, expected ascending rows of it", row, tokens);
    }
    if (!counted.empty() && row == next) {
      ++counted.back().count;
    } else {
      counted.push_back({row, 1});
    }
    next = row + 1;
  }
  if (next - document.rows.front() > options_.span) {
    fail("counted rows span {} tokens, planned were {}", next - document.rows.front(),
         options_.span);
  }
  live_.assign(static_cast<std::size_t>(config_.layers) + 1, {});
  live_.back() = counted;
  std::int64_t tail = next - document.rows.front();
  const std::int64_t sink = options_.window.sink;
  for (std::size_t i = live_.size() - 1; i-- > 0;) {
    tail = tail_before(tail, options_.window);
    if (next - tail <= sink) {
      live_[i] = {{0, next}};
    } else {
      if (sink > 0) live_[i].push_back({0, sink});
      live_[i].push_back({next - tail, tail});
    }
  }
}

/// Calls body(Piece) for all rows of `to`, which are among those of `from`, a chunk at most at
/// once.
template <class Body>
void TrainingPass::for_pieces(const LiveRows& from, const LiveRows& to, const Body& body) const {
  std::int64_t to_begin = 0;
  for (const RowRun& run : to) {
    std::int64_t from_begin = 0;
    for (const RowRun& all : from) {
      if (run.first >= all.first && run.first < all.first + all.count) {
        for (std::int64_t at = 0; at < run.count; at += options_.chunk) {
          body(Piece{.from = from_begin + run.first - all.first + at,
                     .to = to_begin + at,
                     .position = run.first + at,
                     .count = std::min(options_.chunk, run.count - at)});
        }
      }
      from_begin += all.count;
    }
    to_begin += run.count;
  }
}

// --- Teacher ------------------------------------------------------------------------------------

/// Stores those rows of a chunk that are among `live`.
void TrainingPass::keep(Rows chunk, std::int64_t past, const LiveRows& live, StoredRows to) {
  std::int64_t begin = 0;
  for (const RowRun& run : live) {
    const std::int64_t first = std::max(run.first, past);
    const std::int64_t end = std::min(run.first + run.count, past + chunk.rows);
    if (first < end) {
      train_.store(chunk.range(first - past, end - first),
                   to.range(begin + first - run.first, end - first));
    }
    begin += run.count;
  }
}

bool TrainingPass::teach(const TrainingDocument& document, const std::function<bool()>& go_on) {
  const auto as_stored = [](Rows rows) {
    return StoredRows{reinterpret_cast<std::byte*>(rows.data), Dtype::f32, rows.rows, rows.cols};
  };
  cache_.clear();
  const std::int64_t first_row = document.rows.front();
  const std::int64_t end = document.rows.back() + 1;  // nothing after it counts
  for (std::int64_t past = 0; past < end; past = cache_.length()) {
    if (!go_on()) return false;
    const std::int64_t count = std::min(options_.chunk, end - past);
    const StepKey key{.tokens = count,
                      .logit_rows = std::clamp<std::int64_t>(past + count - first_row, 0, count)};
    const auto tokens =
        document.tokens.subspan(static_cast<std::size_t>(past), static_cast<std::size_t>(count));
    ops_.begin_step({.tokens = tokens, .past = past}, cache_);
    ops_.run(key, [&] {
      forward(ops_, model_, cache_, activations_, key, [&](std::int32_t layer, Rows, Rows o) {
        const auto i = static_cast<std::size_t>(layer);
        if (i == 0) {
          keep(activations_.x.range(0, count), past, live_.front(), as_stored(a_.inputs.front()));
        }
        keep(o, past, live_[i + 1], a_.kept[i]);
      });
    });
    if (key.logit_rows > 0) {
      keep(activations_.h.range(0, count), past, live_.back(), as_stored(a_.target));
    }
    cache_.advance(count);
  }
  return true;
}

// --- Student ------------------------------------------------------------------------------------

/// Rotated heads of all live rows of a layer, and their attention under the window.
void TrainingPass::attend(std::int32_t layer) {
  const auto i = static_cast<std::size_t>(layer);
  const std::int64_t rows = rows_of(live_[i]);
  for_pieces(live_[i], live_[i], [&](const Piece& piece) {
    const auto of = [&](Rows all) { return all.range(piece.from, piece.count); };
    project_heads(ops_, config_, model_.layers[i], of(a_.inputs[i]),
                  activations_.h.range(0, piece.count), of(a_.qkv));
    train_.rope(of(a_.qkv), piece.position);
  });
  train_.window_attention(a_.qkv.range(0, rows), options_.window, a_.windowed.range(0, rows),
                          a_.lse.range(0, rows));
}

/// From the heads of a piece to the MLP's gate_up, in activations_; activations_.x is x_mid.
void TrainingPass::project_piece(std::int32_t layer, const Piece& piece) {
  const auto i = static_cast<std::size_t>(layer);
  const auto scratch = [&](Rows all) { return all.range(0, piece.count); };
  const Rows o = scratch(activations_.o);
  train_.mix_heads(a_.gates.range(layer, 1), a_.kept[i].range(piece.to, piece.count),
                   a_.windowed.range(piece.from, piece.count), o);
  project_mlp(ops_, config_, model_.layers[i], a_.inputs[i].range(piece.from, piece.count), o,
              scratch(activations_.x), scratch(activations_.h), scratch(activations_.gate_up));
}

void TrainingPass::student_layer(std::int32_t layer) {
  const auto i = static_cast<std::size_t>(layer);
  attend(layer);
  for_pieces(live_[i], live_[i + 1], [&](const Piece& piece) {
    const auto scratch = [&](Rows all) { return all.range(0, piece.count); };
    project_piece(layer, piece);
    ops_.swiglu(scratch(activations_.gate_up), scratch(activations_.act));
    ops_.linear_add(model_.layers[i].down, scratch(activations_.act), scratch(activations_.x),
                    a_.inputs[i + 1].range(piece.to, piece.count));
  });
}

/// The loss, in a_.loss, and its gradient with respect to the last layer's output, in a_.d_out.
void TrainingPass::loss_gradient() {
  const std::int64_t rows = rows_of(live_.back());
  const Rows x = a_.inputs.back().range(0, rows);
  const Rows hidden = a_.hidden.range(0, rows);
  ops_.rms_norm(x, model_.output_norm, config_.norm_epsilon, hidden);
  train_.mean_squared_error(hidden, a_.target.range(0, rows), a_.loss, hidden);
  train_.rms_norm_backward(x, model_.output_norm, config_.norm_epsilon, hidden, {},
                           a_.d_out.range(0, rows));
}

/// student_layer backwards: from a_.d_out, the gradient of the layer's output, to that of its gates
/// and, in a_.d_out again, that of its input.
void TrainingPass::layer_gradient(std::int32_t layer) {
  const auto i = static_cast<std::size_t>(layer);
  const Layer& weights = model_.layers[i];
  const float eps = config_.norm_epsilon;
  const std::int64_t rows = rows_of(live_[i]);
  attend(layer);
  // Rows that only give keys and values get nothing from behind attention.
  ops_.clear(a_.d_x.range(0, rows));
  ops_.clear(a_.d_windowed.range(0, rows));
  for_pieces(live_[i], live_[i + 1], [&](const Piece& piece) {
    const auto scratch = [&](Rows all) { return all.range(0, piece.count); };
    const auto from = [&](Rows all) { return all.range(piece.from, piece.count); };
    const Rows gate_up = scratch(activations_.gate_up);
    const Rows act = scratch(activations_.act);
    const Rows h = scratch(activations_.h);
    const Rows d_out = a_.d_out.range(piece.to, piece.count);
    project_piece(layer, piece);
    train_.linear_backward(weights.down, d_out, act);
    train_.swiglu_backward(gate_up, act, gate_up);
    train_.linear_backward(weights.gate_up, gate_up, h);
    train_.rms_norm_backward(scratch(activations_.x), weights.mlp_norm, eps, h, d_out,
                             from(a_.d_x));
    const Rows d_o = scratch(activations_.o);
    train_.linear_backward(weights.output, from(a_.d_x), d_o);
    train_.mix_heads_backward(a_.gates.range(layer, 1), a_.kept[i].range(piece.to, piece.count),
                              from(a_.windowed), d_o, a_.d_gates.range(layer, 1),
                              from(a_.d_windowed));
  });
  if (layer == 0) return;  // embeddings do not learn

  const Rows d_qkv = a_.d_qkv.range(0, rows);
  train_.window_attention_backward(a_.qkv.range(0, rows), options_.window,
                                   a_.windowed.range(0, rows), a_.lse.range(0, rows),
                                   a_.d_windowed.range(0, rows), d_qkv);
  const AttentionShape shape = config_.attention();
  for_pieces(live_[i], live_[i], [&](const Piece& piece) {
    const auto from = [&](Rows all) { return all.range(piece.from, piece.count); };
    const Rows x = from(a_.inputs[i]);
    const Rows h = activations_.h.range(0, piece.count);
    train_.rope_backward(from(d_qkv), piece.position);
    if (!weights.query_norm.empty()) {
      const Rows raw = activations_.qkv.range(0, piece.count);
      ops_.rms_norm(x, weights.attention_norm, eps, h);
      project_qkv(ops_, weights, h, raw);
      const auto normed = [&](const Vector& weight, std::int64_t begin, std::int64_t end) {
        const Rows d = from(d_qkv).columns(begin, end - begin);
        train_.head_norm_backward(raw.columns(begin, end - begin), weight, eps, d, d);
      };
      normed(weights.query_norm, 0, shape.key_begin());
      normed(weights.key_norm, shape.key_begin(), shape.value_begin());
    }
    // The parts share their input, so their gradients add up; what a norm makes of a sum is the
    // sum of what it makes of each.
    std::int64_t column = 0;
    for (const Linear& part : weights.qkv) {
      train_.linear_backward(part, from(d_qkv).columns(column, part.out_features()), h);
      train_.rms_norm_backward(x, weights.attention_norm, eps, h, from(a_.d_x), from(a_.d_x));
      column += part.out_features();
    }
  });
  std::swap(a_.d_x, a_.d_out);
}

}  // namespace sedpa
