#pragma once
// A pass as a list of the operations that the forward text asked for. The backend writes the list
// while the text runs, joins neighbours into launches (fusion.h), and can tell whether a recorded
// CUDA graph still says the same.
#include <variant>
#include <vector>

#include "sedpa/attention/kv_policy.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/step.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cuda {

// What they point to belongs to the model and the cache, and outlives the pass.
struct EmbedOp {
  const Weight* table;
  Rows out;
  friend bool operator==(const EmbedOp&, const EmbedOp&) = default;
};
struct NormOp {
  Rows x;
  const float* weight;  // [width]
  std::int64_t width;   // columns of one norm: all of a row, or a head
  float epsilon;
  Rows out;
  friend bool operator==(const NormOp&, const NormOp&) = default;
};
struct LinearOp {
  const Linear* linear;
  Rows x;
  Rows residual;  // data null: none
  Rows out;
  friend bool operator==(const LinearOp&, const LinearOp&) = default;
};
struct RopeOp {
  Rows qkv;
  const LayerShape* shape;
  friend bool operator==(const RopeOp&, const RopeOp&) = default;
};
struct AttentionOp {
  Rows qkv;
  const LayerShape* shape;
  const KvLayer* cache;
  Rows out;
  friend bool operator==(const AttentionOp&, const AttentionOp&) = default;
};
struct CommitOp {
  Rows qkv;
  const LayerShape* shape;
  const KvLayer* cache;
  friend bool operator==(const CommitOp&, const CommitOp&) = default;
};
struct SwigluOp {
  Rows gate_up;
  Rows out;
  friend bool operator==(const SwigluOp&, const SwigluOp&) = default;
};
struct ClearOp {
  Rows out;
  friend bool operator==(const ClearOp&, const ClearOp&) = default;
};

using Op =
    std::variant<EmbedOp, NormOp, LinearOp, RopeOp, AttentionOp, CommitOp, SwigluOp, ClearOp>;
using OpList = std::vector<Op>;

}  // namespace sedpa::cuda
