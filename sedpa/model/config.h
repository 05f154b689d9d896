#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/attention/kv_policy.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/hf_config.h"
#include "sedpa/model/rope_scaling.h"
#include "sedpa/ops/step.h"

namespace sedpa {

/// KV heads that hold fewer numbers than head_dim (docs/formats.md).
struct ThinHeads {
  std::vector<HeadWidths> widths;  // [layers, kv_heads]; empty: no head is thin
  // The RoPE planes that the heads' queries and keys keep: of each layer and head in order its
  // key / 2 planes, ascending. Pair i of a head turns by the angle of its i-th plane.
  std::vector<std::int32_t> rope_planes;

  [[nodiscard]] bool empty() const { return widths.empty(); }
};

/// What a decoder-only transformer is made of: everything that forward needs besides the weights.
struct ModelConfig {
  std::string path;          // for messages
  std::string name;          // as the file calls itself; may be empty
  std::string architecture;  // llama, mistral, qwen2, qwen3
  std::int32_t layers = 0;
  std::int32_t width = 0;  // hidden size
  std::int32_t query_heads = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_dim = 0;
  std::int32_t mlp_width = 0;
  std::int32_t vocab_size = 0;
  std::int64_t trained_context = 0;  // tokens
  float norm_epsilon = 1e-5f;
  std::optional<bool>
      tied_output;              // the output projection is the embedding; empty: if it is absent
  bool query_key_norm = false;  // RMS norm of each query and key head before RoPE (Qwen3)
  std::optional<std::int32_t>
      sliding_window;  // native, of every layer: query p sees p - j < window

  RopeStyle rope_style = RopeStyle::halves;
  std::int32_t rope_dim = 0;
  double rope_base = 10000.0;
  RopeScaling rope_scaling;
  std::vector<float> rope_divisors;  // [rope_dim / 2] or empty

  ThinHeads thin;

  std::int64_t max_rank = 0;  // of matrices stored as two factors, once weights were planned

  /// The same for all layers; where heads are thin, the most that any can have.
  [[nodiscard]] AttentionShape attention() const;
  /// What a head keeps that is not made streaming: everything, or the model's own sliding window.
  [[nodiscard]] HeadClass native_class() const {
    return sliding_window ? HeadClass::window(0, 0, *sliding_window) : HeadClass{};
  }
  [[nodiscard]] RopeSpec rope() const {
    return make_rope(rope_style, rope_dim, rope_base, rope_scaling, rope_divisors);
  }
};

/// Both throw Error naming the file, the field, what was found and what was expected; an unknown
/// architecture is named with the list of those that are supported.
[[nodiscard]] ModelConfig config_from_gguf(const GgufFile& file);
[[nodiscard]] ModelConfig config_from_huggingface(const HfConfig& config);

}  // namespace sedpa
