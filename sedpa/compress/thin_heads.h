#pragma once
// Thin heads: KV heads whose keys keep some of their RoPE planes, and whose values are projected
// onto fewer directions (docs/compression.md).
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/compress/calibration.h"
#include "sedpa/compress/key_planes.h"
#include "sedpa/compress/sensitivity.h"
#include "sedpa/compress/thin_weights.h"
#include "sedpa/compress/thin_widths.h"
#include "sedpa/compress/value_directions.h"
#include "sedpa/engine/engine.h"

namespace sedpa {

class Parts;

/// Which heads become thin, and by how much.
struct ThinRequest {
  double cut = 0;  // in (0, 1): the share of the KV bytes of a token of those heads that goes
  HeadPlan heads;  // its retrieval heads become thin; the others stream in calibration, too
};

/// About the bytes that thinning takes: rows of the text and of the probes, matrices in f64.
[[nodiscard]] std::size_t thinning_bytes(const ModelConfig& config, const CalibrationText& text);

/// The work on one model. Layers that are done, and what was measured, are kept among the parts.
class HeadThinning {
 public:
  /// Throws Error when the model's heads cannot be cut, or not by so much. `type` of the new
  /// matrices; empty: what suits the model's own. Everything must outlive it.
  HeadThinning(const Engine& engine, const ModelConfig& config, const CalibrationText& text,
               const ThinRequest& request, std::optional<Dtype> type,
               const CompressProgress& progress);

  /// Measures what each layer's keys and values lose, chooses widths, and cuts layer after layer.
  void run(const Parts& parts);

  [[nodiscard]] const ModelConfig& config() const { return thin_.config(); }
  [[nodiscard]] const WeightSource& weights() const { return thin_; }
  /// Of the thin model from the original, measured on the way.
  [[nodiscard]] const Divergence& divergence() const { return divergence_; }
  /// f16 bytes of keys and values of a token, in the heads that may become thin.
  [[nodiscard]] std::int64_t kv_bytes_before() const { return 2 * numbers(); }
  [[nodiscard]] std::int64_t kv_bytes() const;

 private:
  struct LayerLosses {
    std::vector<double> keys;  // of each of widths_
    std::vector<double> values;
  };
  struct Trial {
    std::int32_t layer;
    RowStore rows;
  };
  /// What calibration shows of one layer.
  struct LayerSigns {
    std::vector<std::vector<Matrix>> scores;  // [thin heads][group]
    HeadOutputs outputs;
  };

  [[nodiscard]] std::span<const std::int32_t> thin_heads(std::int32_t layer) const {
    return request_.heads.layers[static_cast<std::size_t>(layer)].heads(kRetrieval);
  }
  [[nodiscard]] std::int64_t group() const { return config_.query_heads / config_.kv_heads; }
  [[nodiscard]] std::int64_t numbers() const;
  [[nodiscard]] Dtype type_of(const Place& place) const;
  void check() const;

  void measure(const Parts& parts);
  void measure_round(std::int32_t first, Stream& text, Stream& whole, ProbeComparison& comparison);
  void add_trials(const Layer& layer, std::int32_t index, Stream& text, const Stream& whole,
                  std::vector<Trial>& trials);
  [[nodiscard]] std::vector<WidthChoices> choices() const;
  void allocate();
  void cut(const Parts& parts);
  void cut_layer(const Layer& original, std::int32_t index, Stream& original_text, Stream& text);

  [[nodiscard]] LayerSigns no_signs(std::int32_t layer) const;
  void read_scores(const Layer& layer, std::int32_t index, Rows qkv, LayerSigns& signs);
  void set_keys(ThinWeights& to, std::int32_t layer, const std::vector<const KeyCut*>& cuts) const;
  void set_values(ThinWeights& to, std::int32_t layer, const HeadOutputs& outputs,
                  std::int32_t width) const;
  [[nodiscard]] std::vector<const KeyCut*> cuts_of(std::int32_t layer,
                                                   const std::vector<std::vector<KeyCut>>& cuts,
                                                   std::size_t width) const;
  [[nodiscard]] std::string label() const;
  void show(const char* what) { progress_(what, done_, total_); }

  const Engine& engine_;
  Ops& ops_;
  Algebra algebra_;
  const ModelConfig& config_;
  const CalibrationText& text_;
  const ThinRequest& request_;
  std::optional<Dtype> type_;
  const CompressProgress& progress_;
  ModelView original_;
  bool cuts_keys_;
  std::vector<std::int32_t> widths_;  // that a head may be cut to, descending
  ThreadPool pool_;
  ThinWeights thin_;
  std::vector<LayerLosses> losses_;  // [layers], measured
  std::vector<HeadWidths> chosen_;   // [layers], of the thin heads
  Divergence divergence_;
  std::int64_t done_ = 0;
  std::int64_t total_ = 0;
};

}  // namespace sedpa
