#include "sedpa/identify/output_error.h"

#include <algorithm>
#include <cmath>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

OutputErrorOptions checked(const OutputErrorOptions& options) {
  if (options.sink < 0) fail("sink is {} tokens, expected 0 or more", options.sink);
  if (options.recent < 1) fail("recent is {} tokens, expected 1 or more", options.recent);
  return options;
}

}  // namespace

OutputError::OutputError(Engine& engine, const OutputErrorOptions& options)
    : engine_(engine),
      options_(checked(options)),
      reader_(engine, {.context = options.context, .kv = options.kv, .chunk = options.chunk}),
      shape_(reader_.shape()),
      pool_(engine.threads()) {
  projection_rows_ = reader_.session().chunk;  // what the session's plan lets a linear take
  const auto floats = [](std::int64_t rows, std::int64_t cols) {
    return static_cast<std::size_t>(rows * cols) * sizeof(float);
  };
  inputs_ = engine.ops().allocate(floats(projection_rows_, shape_.out_cols()));
  results_ = engine.ops().allocate(floats(projection_rows_, engine.config().width));
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
  const std::int64_t heads = std::int64_t{config.layers} * config.kv_heads;
  result.losses.resize(static_cast<std::size_t>(result.rows * heads));
  result.likely = reader_.read(
      tokens, rows,
      [&](const PassRows& here) {
        for (std::int32_t layer = 0; layer < config.layers; ++layer) {
          measure_layer(layer, here, result.losses.data() + here.index * heads);
        }
      },
      progress);
  return result;
}

void OutputError::read_window(std::int32_t layer, std::int64_t begin, std::int64_t end) {
  const std::int64_t dim = shape_.head_dim;
  recent_begin_ = std::max<std::int64_t>(0, begin - options_.recent + 1);
  sinks_ = std::min<std::int64_t>(options_.sink, recent_begin_);
  window_rows_ = sinks_ + end - recent_begin_;
  const auto numbers = static_cast<std::size_t>(shape_.kv_heads * window_rows_ * dim);
  keys_.resize(numbers);
  values_.resize(numbers);
  for (std::int32_t head = 0; head < shape_.kv_heads; ++head) {
    float* keys = keys_.data() + head * window_rows_ * dim;
    float* values = values_.data() + head * window_rows_ * dim;
    reader_.read_keys(layer, head, 0, sinks_, keys);
    reader_.read_values(layer, head, 0, sinks_, values);
    reader_.read_keys(layer, head, recent_begin_, end - recent_begin_, keys + sinks_ * dim);
    reader_.read_values(layer, head, recent_begin_, end - recent_begin_, values + sinks_ * dim);
  }
}

void OutputError::window_difference(std::int64_t position, std::int32_t kv_head,
                                    const float* queries, const float* outputs, float* difference) {
  const std::int64_t dim = shape_.head_dim;
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
    const float* query = queries + column;
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
    const float* full = outputs + column;
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

void OutputError::measure_layer(std::int32_t layer, const PassRows& rows, float* losses) {
  const std::int64_t cols = shape_.out_cols();
  const std::int64_t kv_heads = shape_.kv_heads;
  const std::int64_t count = std::ssize(rows.positions);
  read_window(layer, rows.positions.front(), rows.positions.back() + 1);

  // For each row the layer's own output, then each KV head's difference alone.
  std::vector<float> x(static_cast<std::size_t>(count * (kv_heads + 1) * cols));
  pool_.for_each(count * kv_heads, [&](std::int64_t index, int) {
    const std::int64_t r = index / kv_heads;
    const std::int64_t head = index % kv_heads;
    const std::int64_t position = rows.positions[static_cast<std::size_t>(r)];
    const float* outputs = reader_.output(layer, position - rows.first);
    float* row = x.data() + r * (kv_heads + 1) * cols;
    window_difference(position, static_cast<std::int32_t>(head),
                      reader_.query(layer, position - rows.first), outputs,
                      row + (head + 1) * cols);
    if (head == 0) std::copy_n(outputs, cols, row);
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
