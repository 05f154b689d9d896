#pragma once
// Joins neighbours of a pass, so that what one hands to the next never goes through memory:
//   norm, linear, linear ...              the norm inside the products, which go side by side
//                                         where they are of one row and do not need each other
//   norm, linear, swiglu, linear          the MLP
//   head norm (q), head norm (k), rope, attention, commit
//                                         one attention operation; the norms may be absent
// Rows that only a joined neighbour reads need not be written; all others are. Order is kept.
#include <span>
#include <variant>
#include <vector>

#include "sedpa/backend/cuda/attention.h"
#include "sedpa/backend/cuda/linear.h"
#include "sedpa/backend/cuda/op_list.h"

namespace sedpa::cuda {

/// One call of a part of the backend.
using Launch = std::variant<EmbedOp, NormOp, SwigluOp, ClearOp, LinearJob, std::vector<LinearJob>,
                            MlpJob, AttentionJob>;

/// The launches that do what a list says, neighbours joined.
[[nodiscard]] std::vector<Launch> fuse(std::span<const Op> ops);
/// The launch that does one operation alone.
[[nodiscard]] Launch alone(const Op& op);

}  // namespace sedpa::cuda
