#include "sedpa/compress/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "sedpa/compress/low_rank.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/format/quant_blocks.h"
#include "sedpa/model/forward.h"

namespace sedpa {
namespace {

/// Rows of logits at once.
constexpr std::int64_t kLogitRows = 64;

float highest_of(std::span<const float> logits) { return *std::ranges::max_element(logits); }

std::int64_t rows_of(std::span<const Probe> probes) {
  std::int64_t rows = 0;
  for (const Probe& probe : probes) {
    for (const RowRange& range : probe.rows) rows += range.count;
  }
  return rows;
}

/// Of one layer, all its heads whole.
KvGeometry geometry_of(const ModelConfig& config, const HeadPlan& heads, std::int32_t layer,
                       std::int64_t max_tokens) {
  KvGeometry geometry{
      .plan = heads, .context = max_tokens, .head_dim = config.head_dim, .dtype = KvDtype::f16};
  geometry.plan.layers = {heads.layers[static_cast<std::size_t>(layer)]};
  return geometry;
}

/// Bytes of a class's arena that any layer fits into.
std::size_t arena_bytes(const ModelConfig& config, const HeadPlan& heads, int head_class,
                        std::int64_t max_tokens) {
  std::size_t most = 0;
  for (std::int32_t i = 0; i < config.layers; ++i) {
    most = std::max(most, geometry_of(config, heads, i, max_tokens).arena_bytes(head_class));
  }
  return most;
}

std::vector<std::int64_t> lengths_of(const std::vector<std::span<const std::int32_t>>& sequences) {
  std::vector<std::int64_t> lengths;
  for (const auto& sequence : sequences) lengths.push_back(std::ssize(sequence));
  return lengths;
}

}  // namespace

std::int64_t CalibrationText::longest() const {
  std::size_t most = 0;
  for (const auto& sequence : sequences) most = std::max(most, sequence.size());
  for (const auto* probes : {&running, &retrieving}) {
    for (const Probe& probe : *probes) most = std::max(most, probe.tokens.size());
  }
  return static_cast<std::int64_t>(most);
}

std::int64_t CalibrationText::tokens() const {
  std::int64_t count = 0;
  for (const auto& sequence : sequences) count += std::ssize(sequence);
  return count;
}

RowStore::RowStore(Ops& ops, std::span<const std::int64_t> lengths, std::int64_t cols)
    : cols_(cols), begins_{0} {
  for (const std::int64_t length : lengths) begins_.push_back(begins_.back() + length);
  buffer_ = ops.allocate(static_cast<std::size_t>(begins_.back() * cols) * sizeof(float));
}

Rows RowStore::of(std::size_t sequence) const {
  const std::int64_t begin = begins_[sequence];
  return {buffer_.floats() + begin * cols_, begins_[sequence + 1] - begin, cols_, cols_};
}

ModelConfig with_useful_ranks(ModelConfig config) {
  for (std::int32_t layer = 0; layer < config.layers; ++layer) {
    for (const Place& place : attention_places(config, layer)) {
      config.max_rank = std::max(config.max_rank, most_useful_rank(place.rows, place.cols));
    }
  }
  return config;
}

std::size_t LayerRunner::bytes(const Ops& ops, const ModelConfig& config, const HeadPlan& heads,
                               std::int64_t max_tokens) {
  return ops.scratch_bytes(forward_plan(config, max_tokens, max_tokens, heads)) +
         arena_bytes(config, heads, kRetrieval, max_tokens) +
         arena_bytes(config, heads, kStreaming, max_tokens) +
         Activations::bytes(config, max_tokens, 0);
}

LayerRunner::LayerRunner(Ops& ops, const ModelConfig& config, const HeadPlan& heads,
                         std::int64_t max_tokens)
    : ops_(ops),
      config_(config),
      heads_(heads),
      max_tokens_(max_tokens),
      arenas_{ops.allocate(arena_bytes(config, heads, kRetrieval, max_tokens)),
              ops.allocate(arena_bytes(config, heads, kStreaming, max_tokens))},
      activations_(Activations::make(config, max_tokens, 0, ops)) {
  ops.reserve(forward_plan(config, max_tokens, max_tokens, heads));
}

void LayerRunner::embed(const WeightSource& source, std::span<const std::int32_t> tokens, Rows x) {
  const MatrixSource table = source.matrix({Role::embedding, 0, config_.vocab_size, config_.width});
  std::vector<std::byte> stored(static_cast<std::size_t>(row_bytes(table.dtype, table.cols)));
  std::vector<float> numbers(static_cast<std::size_t>(table.cols));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= config_.vocab_size) {
      fail("token id {} is outside the vocabulary of {}", tokens[i], config_.vocab_size);
    }
    table.read(tokens[i], 1, stored.data());
    dequantize_row(table.dtype, stored.data(), table.cols, numbers.data());
    ops_.copy_from_host(reinterpret_cast<const std::byte*>(numbers.data()),
                        reinterpret_cast<std::byte*>(x.row(static_cast<std::int64_t>(i))),
                        numbers.size() * sizeof(float));
  }
}

Rows LayerRunner::normed(const Layer& layer, Rows x) {
  const Rows h = activations_.h.range(0, x.rows);
  ops_.rms_norm(x, layer.attention_norm, config_.norm_epsilon, h);
  return h;
}

Rows LayerRunner::attend(const Layer& layer, std::int32_t index,
                         std::span<const std::int32_t> tokens, Rows x) {
  const auto chunk = [&](Rows rows) { return rows.range(0, x.rows); };
  const LayerShape& shape = layer.shape;
  const Rows qkv = chunk(activations_.qkv).columns(0, shape.qkv_cols);
  const Rows o = chunk(activations_.o).columns(0, shape.out_cols);
  // Always empty: a sequence is one chunk. Rows no wider than the arenas have room for.
  KvGeometry geometry = geometry_of(config_, heads_, index, max_tokens_);
  for (const HeadColumns& head : shape.heads) {
    geometry.widths.push_back({.key = head.key_dim, .value = head.value_dim});
  }
  const KvCache cache(geometry, {arenas_[0].data, arenas_[1].data});
  ops_.begin_step({.tokens = tokens, .past = 0}, cache);
  project_heads(ops_, config_, layer, x, chunk(activations_.h), qkv);
  ops_.rope(qkv, shape);
  ops_.attention(qkv, shape, cache.layer(0), o);
  return o;
}

void LayerRunner::finish(const Layer& layer, Rows x, Rows o, Rows out) {
  const auto chunk = [&](Rows rows) { return rows.range(0, x.rows); };
  // `o` may stand where gate_up will: it is read before.
  project_mlp(ops_, config_, layer, x, o, out, chunk(activations_.h), chunk(activations_.gate_up));
  ops_.swiglu(chunk(activations_.gate_up), chunk(activations_.act));
  ops_.linear_add(layer.down, chunk(activations_.act), out, out);
}

Stream::Stream(Ops& ops, const ModelView& model, LayerRunner& runner,
               std::vector<std::span<const std::int32_t>> tokens)
    : runner_(runner),
      tokens_(std::move(tokens)),
      lengths_(lengths_of(tokens_)),
      rows_(ops, lengths_, model.config.width) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    runner.embed(model.weights, tokens_[i], rows_.of(i));
  }
}

void Stream::pass(const Layer& layer, std::int32_t index, const RowStore& from, const RowStore& to,
                  const std::function<void()>& step) const {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    step();
    const Rows o = runner_.attend(layer, index, tokens_[i], from.of(i));
    runner_.finish(layer, from.of(i), o, to.of(i));
  }
}

std::vector<std::span<const std::int32_t>> sequence_tokens(const CalibrationText& text) {
  return {text.sequences.begin(), text.sequences.end()};
}

std::vector<std::span<const std::int32_t>> probe_tokens(const CalibrationText& text) {
  std::vector<std::span<const std::int32_t>> all;
  for (const auto* probes : {&text.running, &text.retrieving}) {
    for (const Probe& probe : *probes) all.emplace_back(probe.tokens);
  }
  return all;
}

OutputHead::OutputHead(Ops& ops, const ModelConfig& config, const WeightSource& source)
    : ops_(ops), epsilon_(config.norm_epsilon) {
  norm_ = ops.make_vector(source.vector({Role::output_norm, 0, 0, config.width}));
  const Place own{Role::output, 0, config.vocab_size, config.width};
  const Place shared{Role::embedding, 0, config.vocab_size, config.width};
  const MatrixSource matrix =
      source.matrix(config.tied_output.value_or(!source.has(own)) ? shared : own);
  output_.a = ops.make_weight({&matrix, 1});
}

void OutputHead::logits(Rows x, RowRange range,
                        const std::function<void(std::span<const float>)>& take) {
  const std::int64_t vocabulary = output_.out_features();
  const std::int64_t most = std::min(kLogitRows, range.count);
  const Buffer memory =
      ops_.allocate(static_cast<std::size_t>(most * (x.cols + vocabulary)) * sizeof(float));
  for (std::int64_t done = 0; done < range.count; done += most) {
    const std::int64_t count = std::min(most, range.count - done);
    const Rows h{memory.floats(), count, x.cols, x.cols};
    const Rows rows{memory.floats() + most * x.cols, count, vocabulary, vocabulary};
    ops_.rms_norm(x.range(range.first + done, count), norm_, epsilon_, h);
    ops_.linear(output_, h, rows);
    some_.resize(static_cast<std::size_t>(count * vocabulary));
    ops_.read(rows, some_.data());
    take(some_);
  }
}

std::size_t ProbeComparison::bytes(const ModelConfig& config, const CalibrationText& text) {
  const std::int64_t rows = rows_of(text.running) + rows_of(text.retrieving) + kLogitRows;
  return static_cast<std::size_t>(rows * config.vocab_size) * sizeof(float);
}

ProbeComparison::ProbeComparison(Ops& ops, const ModelView& model, const CalibrationText& text,
                                 const RowStore& original, ThreadPool& pool)
    : vocabulary_(model.config.vocab_size),
      head_(ops, model.config, model.weights),
      pool_(pool),
      running_(expect(text.running, 0, original)),
      retrieving_(expect(text.retrieving, text.running.size(), original)) {}

Divergence ProbeComparison::of(const RowStore& rows) {
  return {.running = mean_kl(running_, rows), .retrieving = mean_kl(retrieving_, rows)};
}

void ProbeComparison::each(const Expected& expected, const RowStore& rows,
                           const std::function<void(std::span<const float>)>& take) {
  std::size_t index = expected.first;
  for (const Probe& probe : expected.probes) {
    for (const RowRange& range : probe.rows) head_.logits(rows.of(index), range, take);
    ++index;
  }
}

ProbeComparison::Expected ProbeComparison::expect(std::span<const Probe> probes, std::size_t first,
                                                  const RowStore& original) {
  const std::int64_t count = rows_of(probes);
  Expected expected{.probes = probes,
                    .first = first,
                    .logits = {},
                    .highest = std::vector<float>(static_cast<std::size_t>(count)),
                    .sum = std::vector<double>(static_cast<std::size_t>(count))};
  expected.logits.reserve(static_cast<std::size_t>(count * vocabulary_));
  each(expected, original, [&](std::span<const float> some) {
    expected.logits.insert(expected.logits.end(), some.begin(), some.end());
  });
  const auto vocabulary = static_cast<std::size_t>(vocabulary_);
  pool_.for_each(count, [&](std::int64_t i, int) {
    const auto row = static_cast<std::size_t>(i);
    const auto logits = std::span(expected.logits).subspan(row * vocabulary, vocabulary);
    const float highest = highest_of(logits);
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit} - highest);
    expected.highest[row] = highest;
    expected.sum[row] = sum;
  });
  return expected;
}

// With p the original's probabilities and a, b the logits less their highest: the sum of p (a - b),
// less what the logarithms of both sums of powers differ by. Those are f64; p may be f32, since a
// and b differ by little wherever the result is small.
double ProbeComparison::mean_kl(const Expected& expected, const RowStore& rows) {
  const auto vocabulary = static_cast<std::size_t>(vocabulary_);
  std::vector<double> divergence(expected.sum.size());
  std::size_t first = 0;
  each(expected, rows, [&](std::span<const float> some) {
    pool_.for_each(std::ssize(some) / vocabulary_, [&](std::int64_t i, int) {
      const auto row = first + static_cast<std::size_t>(i);
      const float* const a = expected.logits.data() + row * vocabulary;
      const auto b = some.subspan(static_cast<std::size_t>(i) * vocabulary, vocabulary);
      const float highest_a = expected.highest[row];
      const float highest_b = highest_of(b);
      double sum_b = 0;
      double sum_p = 0;
      double weighted = 0;
      for (std::size_t k = 0; k < vocabulary; ++k) {
        const double below_a = double{a[k]} - highest_a;
        const double below_b = double{b[k]} - highest_b;
        const float p = std::exp(static_cast<float>(below_a));
        sum_b += std::exp(below_b);
        sum_p += p;
        weighted += p * (below_a - below_b);
      }
      divergence[row] = weighted / sum_p - std::log(expected.sum[row] / sum_b);
    });
    first += some.size() / vocabulary;
  });
  const double sum = std::accumulate(divergence.begin(), divergence.end(), 0.0);
  return divergence.empty() ? 0 : sum / static_cast<double>(divergence.size());
}

}  // namespace sedpa
