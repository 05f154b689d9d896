#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sedpa/core/thread_pool.h"
#include "sedpa/engine/engine.h"
#include "sedpa/identify/attention_reader.h"

namespace sedpa {

struct OutputErrorOptions {
  std::int64_t context = 8192;  // tokens of the longest sequence
  std::int32_t sink = 128;      // tokens, >= 0
  std::int32_t recent = 256;    // tokens, >= 1
  KvDtype kv = KvDtype::f16;    // f32, f16 or bf16
  std::int64_t chunk = 0;       // tokens of one prefill pass; 0: what suits the device
};

/// What each KV head's output loses at some rows of a sequence.
struct RowLosses {
  std::int64_t rows = 0;
  std::int32_t layers = 0;
  std::int32_t kv_heads = 0;
  std::vector<float> losses;         // [rows, layers, kv_heads], relative to the layer's output
  std::vector<std::int32_t> likely;  // [rows], the model's most likely next token

  [[nodiscard]] float loss(std::int64_t row, std::int32_t layer, std::int32_t head) const {
    return losses[static_cast<std::size_t>((row * layers + layer) * kv_heads + head)];
  }
};

/// Measures, in one pass with full attention, what a layer's attention output would lose at a row
/// if one KV head saw only the first `sink` and the last `recent` tokens:
///   |W_o d| / |W_o o|,
/// where o is the row's concatenated head outputs and d is the difference that the window makes to
/// the query heads of that KV head, zero elsewhere. After the projection a head counts by what
/// reaches the residual stream; relative to the layer, heads of all layers can be compared.
class OutputError {
 public:
  /// Allocates a session. The engine must be loaded and outlive this. Throws Error when a size is
  /// out of range or when the model's own attention is a window shorter than the context.
  OutputError(Engine& engine, const OutputErrorOptions& options);

  /// As AttentionReader::read.
  RowLosses measure(std::span<const std::int32_t> tokens, std::span<const std::int64_t> rows,
                    const std::function<void(std::int64_t done)>& progress = {});

 private:
  void measure_layer(std::int32_t layer, const PassRows& rows, float* losses);
  void read_window(std::int32_t layer, std::int64_t begin, std::int64_t end);
  void window_difference(std::int64_t position, std::int32_t kv_head, const float* queries,
                         const float* outputs, float* difference);
  // Norms of W_o x for rows x [count, query_cols] on the host.
  void projected_norms(const Linear& output, const std::vector<float>& x, std::int64_t count,
                       std::vector<float>& norms);

  Engine& engine_;
  OutputErrorOptions options_;
  AttentionReader reader_;
  AttentionShape shape_;
  ThreadPool pool_;
  Buffer inputs_;   // [projection_rows, query_cols]
  Buffer results_;  // [projection_rows, width]
  std::int64_t projection_rows_ = 0;

  // Keys and values that the rows of a pass can see through the window: sinks, then recent ones.
  std::int64_t sinks_ = 0;         // count
  std::int64_t recent_begin_ = 0;  // position of the first after the sinks
  std::int64_t window_rows_ = 0;   // count of both
  std::vector<float> keys_;        // [kv_heads, window_rows, head_dim]
  std::vector<float> values_;      // [kv_heads, window_rows, head_dim]
};

}  // namespace sedpa
