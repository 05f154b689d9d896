#include "sedpa/compress/thin_heads.h"

#include <algorithm>
#include <cmath>

#include "sedpa/compress/parts.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/core/log.h"

namespace sedpa {
namespace {

using nlohmann::json;

/// Layers whose trials run through the rest of the model together: six streams of probes each.
constexpr std::int32_t kRound = 8;
constexpr const char* kLosses = "thin-losses.json";
/// Rows whose scores are looked at: one in so many, of a long text so many in all.
constexpr std::int64_t kSampleEvery = 32;
constexpr std::int64_t kMostSamples = 2048;
/// f16.
constexpr std::int64_t kKvBytes = 2;

/// Rows of one sequence in memory of their own, for what is there only until the next call.
struct KeptRows {
  Buffer buffer;
  Rows rows;

  KeptRows(Ops& ops, Rows from) {
    std::vector<float> numbers(static_cast<std::size_t>(from.rows * from.cols));
    ops.read(from, numbers.data());
    const auto bytes = std::as_bytes(std::span(numbers));
    buffer = ops.allocate(bytes.size());
    ops.copy_from_host(bytes.data(), buffer.data, bytes.size());
    rows = {buffer.floats(), from.rows, from.cols, from.cols};
  }
};

}  // namespace

HeadThinning::HeadThinning(const Engine& engine, const ModelConfig& config,
                           const CalibrationText& text, const ThinRequest& request,
                           std::optional<Dtype> type, const CompressProgress& progress)
    : engine_(engine),
      ops_(engine.ops()),
      algebra_(ops_),
      config_(config),
      text_(text),
      request_(request),
      type_(type),
      progress_(progress),
      original_{config, engine.weights(), request.heads},
      cuts_keys_(!config.query_key_norm && config.rope_dim == config.head_dim),
      widths_(thin_widths(config.head_dim)),
      pool_(engine.threads()),
      thin_(config, engine.weights()) {
  check();
}

void HeadThinning::check() const {
  const std::string& path = engine_.model_path();
  if (!config_.thin.empty())
    fail("{}: has thin heads already, expected a model that has not", path);
  if (config_.head_dim % kThinGrain != 0 || config_.head_dim < 2 * kThinGrain) {
    fail("{}: has heads of {} numbers, which cannot be cut to multiples of {}", path,
         config_.head_dim, kThinGrain);
  }
  if (numbers() == 0) fail("{}: no head is to become thin: all of the pattern's stream", path);
  const double most = static_cast<double>(most_saved(choices())) / static_cast<double>(numbers());
  if (request_.cut > most) {
    fail("--thin-heads -{:.4g}% cannot be met: {:.4g}% of the bytes can go at most{}",
         100 * request_.cut, 100 * most,
         cuts_keys_ ? "" : ", for this model's keys are to stay whole");
  }
  if (!cuts_keys_) {
    log(config_.query_key_norm
            ? fmt::format("{} norms each query and key as a whole: its keys stay whole, only "
                          "values become thin",
                          config_.architecture)
            : fmt::format("RoPE rotates {} of {} numbers of a head: keys stay whole, only values "
                          "become thin",
                          config_.rope_dim, config_.head_dim));
  }
}

std::int64_t HeadThinning::numbers() const {
  std::int64_t heads = 0;
  for (const LayerHeads& layer : request_.heads.layers) heads += layer.retrieval;
  return heads * 2 * config_.head_dim;
}

std::int64_t HeadThinning::kv_bytes() const {
  std::int64_t sum = 0;
  for (std::int32_t i = 0; i < config_.layers; ++i) {
    const HeadWidths& widths = chosen_[static_cast<std::size_t>(i)];
    sum += std::ssize(thin_heads(i)) * (widths.key + widths.value);
  }
  return kKvBytes * sum;
}

Dtype HeadThinning::type_of(const Place& place) const {
  const auto places = attention_places(config_, place.layer);
  const auto whole = std::ranges::find(places, place.role, &Place::role);
  const Dtype own = type_.value_or(engine_.weights().dtype(*whole));
  if (block_size(own) == 1) return own;
  return place.cols % block_size(Dtype::q8_0) == 0 ? Dtype::q8_0 : Dtype::f16;
}

std::string HeadThinning::label() const {
  Hash hash;
  for (const HeadWidths& widths : chosen_) {
    hash.add(fmt::format("{} {} ", widths.key, widths.value));
  }
  return hash.digits();
}

void HeadThinning::run(const Parts& parts) {
  measure(parts);
  allocate();
  cut(parts);
}

// --- What each width costs -----------------------------------------------------------------------

/// The trials of one round of layers at a time run through the layers behind them, so that memory
/// does not grow with the model's depth.
void HeadThinning::measure(const Parts& parts) {
  losses_.clear();
  const json before = parts.read(kLosses);
  for (const json& layer : before) {
    losses_.push_back(
        {layer.at(0).get<std::vector<double>>(), layer.at(1).get<std::vector<double>>()});
    for (const auto* losses : {&losses_.back().keys, &losses_.back().values}) {
      if (losses->size() != widths_.size()) parts.fail_damaged(kLosses);
    }
  }
  if (std::ssize(losses_) > config_.layers) parts.fail_damaged(kLosses);
  if (std::ssize(losses_) == config_.layers) return;
  total_ = config_.layers;
  done_ = 0;
  const auto measured = static_cast<std::int32_t>(losses_.size());
  for (std::int32_t i = measured; i < config_.layers; i += kRound) total_ += config_.layers - i;
  LayerRunner runner(ops_, config_, request_.heads, text_.longest());
  const auto step = [&] { show("measuring"); };
  const auto compared = [&] {
    const Stream probes(ops_, original_, runner, probe_tokens(text_));
    for (std::int32_t i = 0; i < config_.layers; ++i, ++done_) {
      probes.pass(load_layer(config_, i, original_.weights, ops_), i, step);
    }
    return ProbeComparison(ops_, original_, text_, probes.rows(), pool_);
  };
  ProbeComparison comparison = compared();
  Stream whole(ops_, original_, runner, probe_tokens(text_));
  Stream text(ops_, original_, runner, sequence_tokens(text_));
  for (std::int32_t i = 0; i < measured; ++i) {
    const Layer layer = load_layer(config_, i, original_.weights, ops_);
    text.pass(layer, i, step);
    whole.pass(layer, i, step);
  }
  for (std::int32_t first = measured; first < config_.layers; first += kRound) {
    measure_round(first, text, whole, comparison);
    json all = json::array();
    for (const LayerLosses& layer : losses_) all.push_back({layer.keys, layer.values});
    parts.write(kLosses, all);
  }
}

void HeadThinning::measure_round(std::int32_t first, Stream& text, Stream& whole,
                                 ProbeComparison& comparison) {
  std::vector<Trial> trials;
  for (std::int32_t i = first; i < config_.layers; ++i, ++done_) {
    const auto step = [&] { show("measuring"); };
    const Layer layer = load_layer(config_, i, original_.weights, ops_);
    for (const Trial& trial : trials) whole.pass(layer, i, trial.rows, trial.rows, step);
    if (i >= first + kRound) continue;
    if (thin_heads(i).empty()) {
      text.pass(layer, i, step);
    } else {
      add_trials(layer, i, text, whole, trials);
    }
    whole.pass(layer, i, step);
  }
  const auto last = std::min(first + kRound, config_.layers);
  std::size_t next = 0;
  for (std::int32_t i = first; i < last; ++i) {
    LayerLosses& of = losses_.emplace_back();
    for (auto* list : {&of.keys, &of.values}) {
      list->assign(widths_.size(), 0.0);
      if (thin_heads(i).empty() || (list == &of.keys && !cuts_keys_)) continue;
      for (double& loss : *list) {
        // Rounding may make a divergence of nothing negative.
        loss = std::max(comparison.of(trials[next++].rows).mean(), 0.0);
      }
    }
  }
}

void HeadThinning::add_trials(const Layer& layer, std::int32_t index, Stream& text,
                              const Stream& whole, std::vector<Trial>& trials) {
  const auto step = [&] { show("measuring"); };
  LayerSigns signs = no_signs(index);
  const DenseMatrix own = algebra_.dense().make(layer.shape.out_cols, layer.shape.out_cols);
  for (std::size_t i = 0; i < text.size(); ++i) {
    step();
    const Rows o = text.attend(layer, index, i);
    read_scores(layer, index, text.runner().projected(layer, o.rows), signs);
    algebra_.dense().add_products(o, o, own);
    text.runner().finish(layer, text.of(i), o, text.of(i));
  }
  signs.outputs.own = algebra_.to_host(own);
  signs.outputs.cross = signs.outputs.own;
  signs.outputs.tokens = text_.tokens();
  const auto run = [&](const ThinWeights& weights) {
    trials.push_back({index, RowStore(ops_, whole.lengths(), config_.width)});
    whole.pass(with_attention(layer, weights.config(), index, weights, ops_), index, whole.rows(),
               trials.back().rows, step);
  };
  if (cuts_keys_) {
    std::vector<std::vector<KeyCut>> cuts;
    for (const auto& forms : signs.scores) cuts.push_back(cut_keys(forms, widths_));
    for (std::size_t w = 0; w < widths_.size(); ++w) {
      ThinWeights weights(config_, original_.weights);
      set_keys(weights, index, cuts_of(index, cuts, w));
      run(weights);
    }
  }
  for (const std::int32_t width : widths_) {
    ThinWeights weights(config_, original_.weights);
    set_values(weights, index, signs.outputs, width);
    run(weights);
  }
}

// --- Widths --------------------------------------------------------------------------------------

/// Keys and values of each layer with heads that may become thin; without losses while those are
/// not known.
std::vector<WidthChoices> HeadThinning::choices() const {
  std::vector<WidthChoices> all;
  for (std::int32_t i = 0; i < config_.layers; ++i) {
    if (thin_heads(i).empty()) continue;
    for (const bool keys : {true, false}) {
      WidthChoices choice{
          .heads = std::ssize(thin_heads(i)), .widths = {config_.head_dim}, .losses = {0}};
      if (!keys || cuts_keys_) {
        choice.widths.insert(choice.widths.end(), widths_.begin(), widths_.end());
      }
      if (!losses_.empty() && choice.widths.size() > 1) {
        const LayerLosses& of = losses_[static_cast<std::size_t>(i)];
        const auto& losses = keys ? of.keys : of.values;
        choice.losses.insert(choice.losses.end(), losses.begin(), losses.end());
      }
      all.push_back(std::move(choice));
    }
  }
  return all;
}

void HeadThinning::allocate() {
  const auto wanted =
      static_cast<std::int64_t>(std::ceil(request_.cut * static_cast<double>(numbers()) - 1e-6));
  const auto widths = allocate_widths(choices(), wanted);
  chosen_.assign(static_cast<std::size_t>(config_.layers),
                 {.key = config_.head_dim, .value = config_.head_dim});
  auto next = widths.begin();
  for (std::int32_t i = 0; i < config_.layers; ++i) {
    if (thin_heads(i).empty()) continue;
    HeadWidths& of = chosen_[static_cast<std::size_t>(i)];
    of.key = *next++;
    of.value = *next++;
  }
}

// --- Cutting -------------------------------------------------------------------------------------

/// All layers, one after the other: the text and the probes through both models.
void HeadThinning::cut(const Parts& parts) {
  LayerRunner runner(ops_, config_, request_.heads, text_.longest());
  Stream original_text(ops_, original_, runner, sequence_tokens(text_));
  Stream text(ops_, original_, runner, sequence_tokens(text_));
  Stream original_probes(ops_, original_, runner, probe_tokens(text_));
  Stream probes(ops_, original_, runner, probe_tokens(text_));
  total_ = config_.layers;
  for (done_ = 0; done_ < total_; ++done_) {
    const auto i = static_cast<std::int32_t>(done_);
    const auto step = [&] { show("thinning"); };
    const Layer original = load_layer(config_, i, original_.weights, ops_);
    const HeadWidths& widths = chosen_[static_cast<std::size_t>(i)];
    const bool whole = widths.key == config_.head_dim && widths.value == config_.head_dim;
    const std::string path = parts.layer_path("thin", i);
    if (whole || thin_.load_layer(i, path, label())) {
      original_text.pass(original, i, step);
    } else {
      cut_layer(original, i, original_text, text);
      thin_.save_layer(i, path, label());
    }
    const Layer thin = with_attention(original, thin_.config(), i, thin_, ops_);
    text.pass(thin, i, step);
    original_probes.pass(original, i, step);
    probes.pass(thin, i, step);
  }
  divergence_ =
      ProbeComparison(ops_, original_, text_, original_probes.rows(), pool_).of(probes.rows());
}

/// Keys first, by what arrives at the layer; then values and output, fitted to what the original's
/// heads give to the original's output matrix. The original's text goes through the layer on the
/// way.
void HeadThinning::cut_layer(const Layer& original, std::int32_t index, Stream& original_text,
                             Stream& text) {
  const auto step = [&] { show("thinning"); };
  const HeadWidths& widths = chosen_[static_cast<std::size_t>(index)];
  LayerSigns signs = no_signs(index);
  if (widths.key < config_.head_dim) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      step();
      const Rows o = text.attend(original, index, i);
      read_scores(original, index, text.runner().projected(original, o.rows), signs);
    }
    std::vector<std::vector<KeyCut>> cuts;
    for (const auto& forms : signs.scores) {
      cuts.push_back(cut_keys(forms, std::span(&widths.key, 1)));
    }
    set_keys(thin_, index, cuts_of(index, cuts, 0));
  }
  const Layer keys_cut = with_attention(original, thin_.config(), index, thin_, ops_);
  DenseOps& dense = algebra_.dense();
  const DenseMatrix own = dense.make(original.shape.out_cols, original.shape.out_cols);
  const DenseMatrix cross = dense.make(own.rows, own.cols);
  for (std::size_t i = 0; i < text.size(); ++i) {
    step();
    const Rows wanted = original_text.attend(original, index, i);
    const KeptRows target(ops_, wanted);
    text.runner().finish(original, original_text.of(i), wanted, original_text.of(i));
    const Rows heads = text.attend(keys_cut, index, i);
    dense.add_products(heads, heads, own);
    dense.add_products(target.rows, heads, cross);
  }
  signs.outputs = {algebra_.to_host(own), algebra_.to_host(cross), text_.tokens()};
  set_values(thin_, index, signs.outputs, widths.value);
}

HeadThinning::LayerSigns HeadThinning::no_signs(std::int32_t layer) const {
  LayerSigns signs;
  signs.scores.assign(thin_heads(layer).size(),
                      std::vector<Matrix>(static_cast<std::size_t>(group()),
                                          Matrix(config_.head_dim, config_.head_dim)));
  return signs;
}

void HeadThinning::read_scores(const Layer& layer, std::int32_t index, Rows qkv,
                               LayerSigns& signs) {
  if (!cuts_keys_) return;
  std::vector<float> numbers(static_cast<std::size_t>(qkv.rows * qkv.cols));
  ops_.read(qkv, numbers.data());
  const std::int64_t every = std::max(kSampleEvery, text_.tokens() / kMostSamples);
  ScoreReader reader(config_.rope_style, config_.attention().scale, every, pool_);
  const auto heads = thin_heads(index);
  for (std::size_t i = 0; i < heads.size(); ++i) {
    reader.add(numbers, qkv.cols, layer.shape.heads[static_cast<std::size_t>(heads[i])],
               request_.heads.classes[kRetrieval], signs.scores[i]);
  }
}

/// The cuts to one of the widths, by KV head; null where a head stays whole.
std::vector<const KeyCut*> HeadThinning::cuts_of(std::int32_t layer,
                                                 const std::vector<std::vector<KeyCut>>& cuts,
                                                 std::size_t width) const {
  std::vector<const KeyCut*> all(static_cast<std::size_t>(config_.kv_heads));
  const auto heads = thin_heads(layer);
  for (std::size_t i = 0; i < heads.size(); ++i) {
    all[static_cast<std::size_t>(heads[i])] = &cuts[i][width];
  }
  return all;
}

void HeadThinning::set_keys(ThinWeights& to, std::int32_t layer,
                            const std::vector<const KeyCut*>& cuts) const {
  LayerThinness heads = to.heads(layer);
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    if (cuts[i] == nullptr) continue;
    heads.widths[i].key = 2 * static_cast<std::int32_t>(cuts[i]->planes.size());
    heads.planes[i] = cuts[i]->planes;
  }
  to.set_heads(layer, heads);
  const auto places = attention_places(config_, layer);
  for (const auto& [place, side] : {std::pair{places[0], Side::query}, {places[1], Side::key}}) {
    const Projection whole = read_projection(original_.weights, place);
    const auto keep = [&, side = side](const Matrix& m) {
      if (m.rows == 0) return Matrix();
      return keep_planes(m, cuts, side == Side::query ? group() : 1, config_.head_dim,
                         config_.rope_style, side);
    };
    to.set(place.role, layer, {keep(whole.matrix), keep(whole.bias)}, type_of(place));
  }
}

void HeadThinning::set_values(ThinWeights& to, std::int32_t layer, const HeadOutputs& outputs,
                              std::int32_t width) const {
  LayerThinness heads = to.heads(layer);
  for (const std::int32_t head : thin_heads(layer)) {
    heads.widths[static_cast<std::size_t>(head)].value = width;
  }
  to.set_heads(layer, heads);
  std::vector<std::int32_t> widths;
  for (const HeadWidths& head : heads.widths) widths.push_back(head.value);
  const auto places = attention_places(config_, layer);
  const ValueCut cut =
      cut_values(algebra_, read_matrix(original_.weights, places[3]), outputs, widths, group());
  const Projection whole = read_projection(original_.weights, places[2]);
  const auto project = [&](const Matrix& m) {
    return m.rows == 0 ? Matrix() : project_values(m, cut.directions);
  };
  to.set(Role::value, layer, {project(whole.matrix), project(whole.bias)}, type_of(places[2]));
  const Place output = attention_places(to.config(), layer)[3];
  to.set(Role::attention_output, layer, {cut.output, {}}, type_of(output));
}

std::size_t thinning_bytes(const ModelConfig& config, const CalibrationText& text) {
  const std::int64_t width = config.width;
  const std::int64_t heads = config.attention().out_cols();
  std::int64_t probes = 0;
  for (const auto& tokens : probe_tokens(text)) probes += std::ssize(tokens);
  const std::int64_t trials =
      2 * std::ssize(thin_widths(config.head_dim)) * std::min(kRound, config.layers);
  // Rows in f32: of the text, the probes and the trials, or of both models' text and probes.
  const std::int64_t measuring = width * (text.tokens() + probes * (1 + trials));
  const std::int64_t cutting = 2 * width * (text.tokens() + probes);
  // In f64: the rows of heads of a sequence twice, and about a dozen matrices that are as large as
  // the output projection or the covariance of what it reads.
  const std::int64_t doubles =
      2 * text.longest() * heads + 12 * heads * std::max(width, heads) + heads * config.head_dim;
  return static_cast<std::size_t>(std::max(measuring, cutting)) * sizeof(float) +
         static_cast<std::size_t>(text.longest() * config.attention().qkv_cols()) * sizeof(float) +
         static_cast<std::size_t>(doubles) * sizeof(double);
}

}  // namespace sedpa
