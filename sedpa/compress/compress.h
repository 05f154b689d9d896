#pragma once
// Smaller models: the attention projections as low-rank factors (SEDPA-S), KV heads that are thin.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/compress/calibration.h"
#include "sedpa/compress/sensitivity.h"
#include "sedpa/compress/thin_heads.h"
#include "sedpa/engine/engine.h"

namespace sedpa {

struct CompressOptions {
  /// Ranks and factors by singular values alone, as published, for a model whose heads are split
  /// like this; empty: by what the calibration text shows.
  std::optional<HeadPlan> published = {};
  /// Thin heads, before factors are made of anything.
  std::optional<ThinRequest> thin = {};
  /// The share of the attention projections' numbers that goes into no factors, in (0, 1); with
  /// thin heads, of what those leave. Empty: the published rule's own point, or what max_kl says;
  /// or no factors, where heads become thin.
  std::optional<double> cut = {};
  /// The most divergence of next tokens, mean of running text and of retrieval, instead of a share.
  std::optional<double> max_kl = {};
  std::optional<Dtype> type = {};  // of new matrices; empty: what suits the model's own
  std::uint64_t seed = 1;          // of the text, for the record

  [[nodiscard]] bool makes_factors() const { return published || cut || max_kl; }
};

struct CompressResult {
  // [layers * 4]: query, key, value, output; 0: whole. Empty: no factors were asked for.
  std::vector<std::int64_t> ranks;
  std::vector<HeadWidths> widths;    // [layers, kv_heads]; empty: no thin heads were asked for
  std::int64_t kv_bytes_before = 0;  // f16, of a token in the heads that may become thin
  std::int64_t kv_bytes_after = 0;
  std::int64_t attention_before = 0;  // numbers of the attention projections
  std::int64_t attention_after = 0;
  std::int64_t parameters_before = 0;  // of the model
  std::int64_t parameters_after = 0;
  double expected_kl = 0;  // what max_kl bounds, as the sum of single cuts; 0: not known
  double kl_running = 0;   // measured, of the compressed model from the original
  double kl_retrieving = 0;
  bool resumed = false;
};

/// About what compress takes beyond the mapped model: two layers' weights, the rows of the text
/// between two layers, and matrices in f64. Throws Error when the model is compressed already.
[[nodiscard]] MemoryPlan plan_compression(const Engine& engine, const CalibrationText& text,
                                          const CompressOptions& options);

/// Writes a compressed copy of the engine's model, whose weights have not been loaded, to `output`.
/// Finished layers are kept in the directory `output`.parts until all are done; a call with the
/// same model, text and options goes on from there. Throws Error naming what is wrong: a model that
/// is compressed already, a budget that cannot be met (and the smallest that can), a text too
/// short, parts of another run.
CompressResult compress(const Engine& engine, const CalibrationText& text,
                        const CompressOptions& options, const std::string& output,
                        const CompressProgress& progress);

}  // namespace sedpa
