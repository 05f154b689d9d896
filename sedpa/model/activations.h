#pragma once
#include <cstdint>

#include "sedpa/core/tensor.h"
#include "sedpa/model/config.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// The buffers of one forward pass, for chunks of up to `max_tokens`. What attention needs and what
/// the MLP needs are never alive together and share their memory.
struct Activations {
  Rows x;        // [max_tokens, width]: the residual stream
  Rows h;        // [max_tokens, width]: normed
  Rows qkv;      // [max_tokens, qkv_cols]; a layer of thin heads uses the first columns
  Rows o;        // [max_tokens, query_heads * head_dim]; the same
  Rows gate_up;  // [max_tokens, 2 mlp_width]; over qkv and o
  Rows act;      // [max_tokens, mlp_width]
  Rows logits;   // [max_logit_rows, vocab_size]
  Buffer buffer;

  /// Bytes that `make` allocates.
  [[nodiscard]] static std::size_t bytes(const ModelConfig& config, std::int64_t max_tokens,
                                         std::int64_t max_logit_rows);
  [[nodiscard]] static Activations make(const ModelConfig& config, std::int64_t max_tokens,
                                        std::int64_t max_logit_rows, Ops& ops);
};

}  // namespace sedpa
