#include "sedpa/identify/output_error.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr std::int64_t kPassRows = 64;  // rows of one measured pass: logits are kept for each

OutputErrorOptions checked(const OutputErrorOptions& options, const ModelConfig& config) {
  if (options.sink < 0) fail("sink is {} tokens, expected 0 or more", options.sink);
  if (options.recent < 1) fail("recent is {} tokens, expected 1 or more", options.recent);
  if (options.kv == KvDtype::q8 || options.kv == KvDtype::q4) {
    fail("heads are scored on keys and values in {}, expected f32, f16 or bf16", name(options.kv));
  }
  if (config.sliding_window && options.context > *config.sliding_window) {
    fail(
        "{}: all heads of this model see {} tokens back; heads can be told apart only within "
        "that, so --context must be at most {}, not {}",
        config.path, *config.sliding_window, *config.sliding_window, options.context);
  }
  return options;
}

// Stored rows to numbers.
void widen(const std::byte* raw, KvDtype dtype, std::int64_t count, float* out) {
  if (dtype == KvDtype::f32) {
    std::memcpy(out, raw, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, raw + 2 * i, sizeof(bits));
    out[i] = dtype == KvDtype::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
}

}  // namespace

SessionOptions OutputError::session_options(const OutputErrorOptions& options,
                                            const ModelConfig& config) {
  return {.context = options.context,
          .heads = HeadPlan::uniform(config.layers, config.kv_heads, HeadClass{}),
          .kv = options.kv,
          .chunk = options.chunk,
          .logit_rows = kPassRows};
}

OutputError::OutputError(Engine& engine, const OutputErrorOptions& options)
    : engine_(engine),
      options_(checked(options, engine.config())),
      shape_(engine.config().attention()),
      session_(engine, session_options(options_, engine.config())),
      pool_(engine.threads()) {
  const ModelConfig& config = engine.config();
  projection_rows_ = session_.options().chunk;  // what the session's plan lets a linear take
  const auto floats = [](std::int64_t rows, std::int64_t cols) {
    return static_cast<std::size_t>(rows * cols) * sizeof(float);
  };
  inputs_ = engine.ops().allocate(floats(projection_rows_, shape_.out_cols()));
  results_ = engine.ops().allocate(floats(projection_rows_, config.width));
  const auto pass =
      static_cast<std::size_t>(config.layers * session_.options().logit_rows * shape_.out_cols());
  queries_.resize(pass);
  outputs_.resize(pass);
}

RowLosses OutputError::measure(std::span<const std::int32_t> tokens,
                               std::span<const std::int64_t> rows,
                               const std::function<void(std::int64_t)>& progress) {
  const ModelConfig& config = engine_.config();
  RowLosses result{.rows = std::ssize(rows),
                   .layers = config.layers,
                   .kv_heads = config.kv_heads,
                   .losses = {},
                   .likely = {}};
  if (rows.empty()) return result;
  if (!std::is_sorted(rows.begin(), rows.end()) || rows.front() < 0 ||
      rows.back() >= std::ssize(tokens)) {
    fail("rows to measure are not ascending positions of {} tokens", tokens.size());
  }
  const std::int64_t heads = std::int64_t{config.layers} * config.kv_heads;
  result.losses.resize(static_cast<std::size_t>(result.rows * heads));
  result.likely.reserve(rows.size());

  session_.clear();
  const std::int64_t begin = rows.front();
  const auto part = [&](std::int64_t from, std::int64_t to) {
    return tokens.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
  };
  if (begin > 0) session_.append(part(0, begin), progress);

  session_.observe([this](std::int32_t layer, Rows qkv, Rows o) { observe(layer, qkv, o); });
  std::size_t next = 0;  // row to measure
  session_.evaluate(
      part(begin, rows.back() + 1), [&](std::int64_t done, std::span<const float> logits) {
        const auto vocabulary = static_cast<std::size_t>(config.vocab_size);
        const std::int64_t first = begin + done;
        const std::int64_t end = first + static_cast<std::int64_t>(logits.size() / vocabulary);
        const std::size_t from = next;
        for (; next < rows.size() && rows[next] < end; ++next) {
          const auto row =
              logits.subspan(static_cast<std::size_t>(rows[next] - first) * vocabulary, vocabulary);
          result.likely.push_back(
              static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
        }
        const auto here = rows.subspan(from, next - from);
        if (!here.empty()) {
          float* losses = result.losses.data() + static_cast<std::int64_t>(from) * heads;
          for (std::int32_t layer = 0; layer < config.layers; ++layer) {
            measure_layer(layer, first, here, losses);
          }
        }
        if (progress) progress(end);
      });
  session_.observe({});
  return result;
}

void OutputError::observe(std::int32_t layer, Rows qkv, Rows o) {
  const std::int64_t cols = shape_.out_cols();
  const auto at = static_cast<std::size_t>(layer * session_.options().logit_rows * cols);
  engine_.ops().read(qkv.columns(0, cols), queries_.data() + at);
  engine_.ops().read(o, outputs_.data() + at);
}

void OutputError::read_keys(std::int32_t layer, std::int64_t begin, std::int64_t end) {
  const std::int64_t dim = shape_.head_dim;
  recent_begin_ = std::max<std::int64_t>(0, begin - options_.recent + 1);
  sinks_ = std::min<std::int64_t>(options_.sink, recent_begin_);
  window_rows_ = sinks_ + end - recent_begin_;
  const auto numbers = static_cast<std::size_t>(shape_.kv_heads * window_rows_ * dim);
  keys_.resize(numbers);
  values_.resize(numbers);

  const KvLayer& cache = session_.cache().layer(layer);
  const KvBlock& block = cache.blocks[kRetrieval];
  const auto copy = [&](const std::byte* from, std::int64_t count, float* out) {
    if (count == 0) return;  // no sinks, or all of them among the recent rows
    const std::int64_t bytes = count * kv_row_bytes(options_.kv, dim);
    raw_.resize(static_cast<std::size_t>(bytes));
    engine_.ops().copy_to_host(from, raw_.data(), raw_.size());
    widen(raw_.data(), options_.kv, count * dim, out);
  };
  for (std::int64_t i = 0; i < block.heads; ++i) {
    const std::int64_t head = cache.heads->order[static_cast<std::size_t>(i)];
    float* keys = keys_.data() + head * window_rows_ * dim;
    float* values = values_.data() + head * window_rows_ * dim;
    // A full head's slots are the positions.
    copy(block.key(i, 0), sinks_, keys);
    copy(block.value(i, 0), sinks_, values);
    copy(block.key(i, recent_begin_), end - recent_begin_, keys + sinks_ * dim);
    copy(block.value(i, recent_begin_), end - recent_begin_, values + sinks_ * dim);
  }
}

void OutputError::window_difference(std::int64_t row_of_pass, std::int64_t position,
                                    std::int32_t kv_head, const float* queries,
                                    const float* outputs, float* difference) {
  const std::int64_t dim = shape_.head_dim;
  const std::int64_t cols = shape_.out_cols();
  const float* keys = keys_.data() + kv_head * window_rows_ * dim;
  const float* values = values_.data() + kv_head * window_rows_ * dim;
  const HeadClass window = HeadClass::window(options_.sink, 0, options_.recent);
  // Window rows that this query sees: sinks (some may stand among the recent rows while the
  // sequence is short), then its own recent ones.
  std::vector<std::int64_t> seen;
  for (std::int64_t i = 0; i < window_rows_; ++i) {
    const std::int64_t key = i < sinks_ ? i : recent_begin_ + i - sinks_;
    if (window.sees(position, key)) seen.push_back(i);
  }
  std::vector<float> weights(seen.size());
  for (std::int32_t g = 0; g < shape_.group(); ++g) {
    const std::int64_t column = (std::int64_t{kv_head} * shape_.group() + g) * dim;
    const float* query = queries + row_of_pass * cols + column;
    float highest = -INFINITY;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const float* key = keys + seen[i] * dim;
      float dot = 0;
      for (std::int64_t d = 0; d < dim; ++d) dot += query[d] * key[d];
      weights[i] = dot * shape_.scale;
      highest = std::max(highest, weights[i]);
    }
    float sum = 0;
    for (float& weight : weights) sum += weight = std::exp(weight - highest);
    float* out = difference + column;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const float* value = values + seen[i] * dim;
      const float weight = weights[i] / sum;
      for (std::int64_t d = 0; d < dim; ++d) out[d] -= weight * value[d];
    }
    const float* full = outputs + row_of_pass * cols + column;
    for (std::int64_t d = 0; d < dim; ++d) out[d] += full[d];
  }
}

void OutputError::projected_norms(const Linear& output, const std::vector<float>& x,
                                  std::int64_t count, std::vector<float>& norms) {
  const std::int64_t cols = shape_.out_cols();
  const std::int64_t width = output.out_features();
  // The projection is linear in the heads but for its bias.
  const Linear plain{.a = output.a, .b = output.b, .bias = {}};
  std::vector<float> y(static_cast<std::size_t>(std::min(count, projection_rows_) * width));
  norms.clear();
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t rows = std::min(projection_rows_, count - done);
    const Rows in{.data = inputs_.floats(), .rows = rows, .cols = cols, .stride = cols};
    const Rows out{.data = results_.floats(), .rows = rows, .cols = width, .stride = width};
    engine_.ops().copy_from_host(reinterpret_cast<const std::byte*>(x.data() + done * cols),
                                 inputs_.data,
                                 static_cast<std::size_t>(rows * cols) * sizeof(float));
    engine_.ops().linear(plain, in, out);
    engine_.ops().read(out, y.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      double square = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        square += static_cast<double>(y[static_cast<std::size_t>(r * width + i)]) *
                  y[static_cast<std::size_t>(r * width + i)];
      }
      norms.push_back(static_cast<float>(std::sqrt(square)));
    }
    done += rows;
  }
}

void OutputError::measure_layer(std::int32_t layer, std::int64_t first,
                                std::span<const std::int64_t> rows, float* losses) {
  const std::int64_t cols = shape_.out_cols();
  const std::int64_t kv_heads = shape_.kv_heads;
  const std::int64_t count = std::ssize(rows);
  const auto at = layer * session_.options().logit_rows * cols;
  const float* queries = queries_.data() + at;
  const float* outputs = outputs_.data() + at;
  read_keys(layer, rows.front(), rows.back() + 1);

  // For each row the layer's own output, then each KV head's difference alone.
  std::vector<float> x(static_cast<std::size_t>(count * (kv_heads + 1) * cols));
  pool_.for_each(count * kv_heads, [&](std::int64_t index, int) {
    const std::int64_t r = index / kv_heads;
    const std::int64_t head = index % kv_heads;
    const std::int64_t position = rows[static_cast<std::size_t>(r)];
    float* row = x.data() + r * (kv_heads + 1) * cols;
    window_difference(position - first, position, static_cast<std::int32_t>(head), queries, outputs,
                      row + (head + 1) * cols);
    if (head == 0) std::copy_n(outputs + (position - first) * cols, cols, row);
  });
  std::vector<float> norms;
  projected_norms(engine_.model().layers[static_cast<std::size_t>(layer)].output, x,
                  count * (kv_heads + 1), norms);
  for (std::int64_t r = 0; r < count; ++r) {
    const float* norm = norms.data() + r * (kv_heads + 1);
    for (std::int64_t head = 0; head < kv_heads; ++head) {
      losses[(r * engine_.config().layers + layer) * kv_heads + head] =
          norm[0] > 0 ? norm[head + 1] / norm[0] : 0;
    }
  }
}

}  // namespace sedpa
