#include "sedpa/compress/sensitivity.h"

#include <algorithm>
#include <cmath>

#include "sedpa/compress/covariance.h"
#include "sedpa/compress/factored_weights.h"
#include "sedpa/compress/low_rank.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa {
namespace {

/// Of a matrix's numbers, what the cut leaves whose divergence is measured.
constexpr double kProbedShare = 0.75;

RankChoices choices_of(const Place& place, std::int64_t step) {
  return {.rows = place.rows, .cols = place.cols, .ranks = useful_ranks(place, step), .losses = {}};
}

/// The survey of one model: a walk over its layers with the probes of the model as it is, and of
/// the model with one projection cut, for each projection met so far.
class Survey {
 public:
  Survey(const Engine& engine, const ModelView& model, const CalibrationText& text,
         std::int64_t step)
      : ops_(engine.ops()),
        algebra_(ops_),
        model_(model),
        config_(model.config),
        text_(text),
        step_(step),
        pool_(engine.threads()) {}

  std::vector<RankChoices> run(const CompressProgress& progress) {
    const WeightSource& source = model_.weights;
    LayerRunner runner(ops_, config_, model_.heads, text_.longest());
    const Stream text(ops_, model_, runner, sequence_tokens(text_));
    const Stream whole(ops_, model_, runner, probe_tokens(text_));
    std::vector<RowStore> cut;  // [projections met so far]
    for (std::int32_t i = 0; i < config_.layers; ++i) {
      const auto step = [&] { progress("measuring", i, config_.layers); };
      const Layer layer = load_layer(config_, i, source, ops_);
      const std::vector<Factors> factors = cut_layer(layer, i, text, step);
      for (const RowStore& met : cut) whole.pass(layer, i, met, met, step);
      for (std::size_t k = 0; k < factors.size(); ++k) {
        FactoredWeights weights(source);
        weights.set(attention_places(config_, i)[k], factors[k], Dtype::f32);
        cut.emplace_back(ops_, whole.lengths(), config_.width);
        whole.pass(with_attention(layer, config_, i, weights, ops_), i, whole.rows(), cut.back(),
                   step);
      }
      whole.pass(layer, i, step);
    }
    compare(whole.rows(), cut);
    return std::move(choices_);
  }

 private:
  /// Gathers the covariances of a layer's inputs on the way through it, and gives the factors of
  /// its projections.
  std::vector<Factors> cut_layer(const Layer& layer, std::int32_t index, const Stream& text,
                                 const std::function<void()>& step) {
    const std::int64_t head_cols = layer.shape.out_cols;
    DenseOps& dense = algebra_.dense();
    const DenseMatrix of_input = dense.make(config_.width, config_.width);
    const DenseMatrix of_heads = dense.make(head_cols, head_cols);
    for (std::size_t i = 0; i < text.size(); ++i) {
      step();
      const Rows rows = text.of(i);
      const Rows h = text.runner().normed(layer, rows);
      dense.add_products(h, h, of_input);
      const Rows o = text.attend(layer, index, i);
      dense.add_products(o, o, of_heads);
      text.runner().finish(layer, rows, o, rows);
    }
    regularize(dense, of_input);
    regularize(dense, of_heads);
    std::vector<Factors> factors;
    for (const Place& place : attention_places(config_, index)) {
      const bool output = place.role == Role::attention_output;
      const auto decomposition = Decomposition::of_outputs(
          algebra_, algebra_.load(model_.weights.matrix(place)), output ? of_heads : of_input);
      RankChoices choices = choices_of(place, step_);
      for (const std::int64_t rank : choices.ranks) {
        choices.losses.push_back(decomposition.lost(rank));
      }
      choices_.push_back(std::move(choices));
      const std::int64_t rank = probed_rank(place);
      probed_.push_back(decomposition.lost(rank));
      factors.push_back(decomposition.cut(rank));
    }
    return factors;
  }

  [[nodiscard]] std::int64_t probed_rank(const Place& place) const {
    const auto numbers = static_cast<double>(place.rows * place.cols) * kProbedShare;
    const auto rank =
        static_cast<std::int64_t>(numbers / static_cast<double>(place.rows + place.cols));
    return std::clamp<std::int64_t>(rank, 1, most_useful_rank(place.rows, place.cols));
  }

  /// Losses from shares of the output's error to divergence.
  void compare(const RowStore& whole, const std::vector<RowStore>& cut) {
    ProbeComparison comparison(ops_, model_, text_, whole, pool_);
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      // Rounding may make a divergence of nothing negative.
      const double divergence = std::max(comparison.of(cut[i]).mean(), 0.0);
      const double unit = probed_[i] > 0 ? divergence / probed_[i] : 0;
      for (double& loss : choices_[i].losses) loss *= unit;
    }
  }

  Ops& ops_;
  Algebra algebra_;
  const ModelView& model_;
  const ModelConfig& config_;
  const CalibrationText& text_;
  std::int64_t step_;
  ThreadPool pool_;
  std::vector<RankChoices> choices_;
  std::vector<double> probed_;  // of each projection, the share lost at the rank that is probed
};

}  // namespace

std::vector<Place> all_attention_places(const ModelConfig& config) {
  std::vector<Place> places;
  for (std::int32_t i = 0; i < config.layers; ++i) {
    for (const Place& place : attention_places(config, i)) places.push_back(place);
  }
  return places;
}

std::vector<std::int64_t> useful_ranks(const Place& matrix, std::int64_t step) {
  std::vector<std::int64_t> ranks;
  for (std::int64_t rank = step; rank <= most_useful_rank(matrix.rows, matrix.cols); rank += step) {
    ranks.push_back(rank);
  }
  return ranks;
}

Matrix read_matrix(const WeightSource& source, const Place& place) {
  const MatrixSource rows = source.matrix(place);
  Matrix matrix(place.rows, place.cols);
  std::vector<std::byte> stored(static_cast<std::size_t>(row_bytes(rows.dtype, rows.cols)));
  std::vector<float> numbers(static_cast<std::size_t>(rows.cols));
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    rows.read(i, 1, stored.data());
    dequantize_row(rows.dtype, stored.data(), rows.cols, numbers.data());
    std::ranges::copy(numbers, matrix.row(i));
  }
  return matrix;
}

std::vector<RankChoices> singular_value_losses(const Algebra& algebra, const WeightSource& source,
                                               const ModelConfig& config, std::int64_t step,
                                               const CompressProgress& progress) {
  std::vector<RankChoices> all;
  for (const Place& place : all_attention_places(config)) {
    progress("decomposing", place.layer, config.layers);
    const auto decomposition =
        Decomposition::of_matrix(algebra, algebra.load(source.matrix(place)));
    RankChoices choices = choices_of(place, step);
    for (const std::int64_t rank : choices.ranks) {
      choices.losses.push_back(decomposition.lost(rank));
    }
    all.push_back(std::move(choices));
  }
  return all;
}

std::vector<RankChoices> measured_losses(const Engine& engine, const ModelView& model,
                                         const CalibrationText& text, std::int64_t step,
                                         const CompressProgress& progress) {
  return Survey(engine, model, text, step).run(progress);
}

}  // namespace sedpa
