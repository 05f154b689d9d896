#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sedpa/model/checkpoint.h"
#include "sedpa/model/config.h"
#include "sedpa/model/lora.h"
#include "sedpa/model/weight_source.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// One transformer layer in a backend's memory. Query, key and value projections are stacked into
/// one Linear, so are the MLP's gate and up projections. A projection that is stored as two
/// low-rank factors is a Linear of its own, and what stands before and behind it too.
struct Layer {
  LayerShape shape;
  Vector attention_norm;    // [width]
  std::vector<Linear> qkv;  // one after the other shape.qkv_cols x width
  Vector query_norm;        // [head_dim] or empty
  Vector key_norm;          // [head_dim] or empty
  Linear output;            // width x shape.out_cols
  Vector mlp_norm;          // [width]
  Linear gate_up;           // 2 mlp_width x width
  Linear down;              // width x mlp_width
};

/// A model's weights in a backend's memory, ready for forward.
struct Model {
  ModelConfig config;
  Weight embedding;  // [vocab_size, width]
  std::vector<Layer> layers;
  Vector output_norm;  // [width]
  Linear output;       // vocab_size x width; shares the embedding's memory when tied

  std::int64_t parameters = 0;   // numbers really stored
  std::size_t weight_bytes = 0;  // allocated, each weight once

  /// Bytes of weights that one decode step reads: all of them, but of an untied embedding one row.
  [[nodiscard]] std::size_t decode_weight_bytes() const {
    const bool tied = output.a.storage == embedding.storage && !embedding.bands.empty() &&
                      output.a.bands.front().data == embedding.bands.front().data;
    return tied ? weight_bytes
                : weight_bytes - embedding.bytes +
                      embedding.bytes / static_cast<std::size_t>(embedding.rows);
  }
};

/// What loading would store: the same walk over the places as load_model, without reading a weight.
struct WeightPlan {
  std::int64_t parameters = 0;
  std::size_t weight_bytes = 0;
  std::int64_t attention_parameters = 0;  // of query, key, value and output matrices
  std::int64_t low_rank_matrices = 0;     // stored as two factors
  std::int64_t max_rank = 0;              // of those
};

/// Called with bytes read so far and in all.
using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// A checkpoint's places. Adapters are merged in f32; a changed matrix is stored as q8_0, or in its
/// own type when that is f32, f16 or bf16. Both arguments must outlive the result.
[[nodiscard]] std::unique_ptr<WeightSource> checkpoint_weights(
    const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters);

/// All throw Error when a tensor is missing, doubled or of the wrong shape.
[[nodiscard]] WeightPlan plan_weights(const ModelConfig& config, const WeightSource& source,
                                      const Ops& ops);
[[nodiscard]] Model load_model(const ModelConfig& config, const WeightSource& source, Ops& ops,
                               const Progress& progress);
/// One layer alone.
[[nodiscard]] Layer load_layer(const ModelConfig& config, std::int32_t layer,
                               const WeightSource& source, Ops& ops);
/// The same layer with what stands before its MLP as `source` has it; the MLP is shared with
/// `layer`, not loaded again.
[[nodiscard]] Layer with_attention(const Layer& layer, const ModelConfig& config,
                                   std::int32_t index, const WeightSource& source, Ops& ops);
/// The same for a checkpoint and adapters.
[[nodiscard]] WeightPlan plan_weights(const Checkpoint& checkpoint,
                                      std::span<const LoraAdapter> adapters, const Ops& ops);
[[nodiscard]] Model load_model(const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters,
                               Ops& ops, const Progress& progress);

}  // namespace sedpa
