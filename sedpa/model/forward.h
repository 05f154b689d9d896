#pragma once
#include "sedpa/attention/kv_cache.h"
#include "sedpa/model/activations.h"
#include "sedpa/model/model.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// What looks at the attention of each layer as it passes, as head identification does, or changes
/// it, as masking does: `qkv` are the rotated rows of the chunk, `o` what attention made of them,
/// before the output projection; the layer's input still stands in Activations::x. It may read rows
/// (Ops::read) and ask for operations on `o`.
using AttentionObserver = std::function<void(std::int32_t layer, Rows qkv, Rows o)>;

/// One forward pass over the step that `ops.begin_step` was given: the chunk's keys and values are
/// committed to the cache, the last key.logit_rows rows get their last hidden states (after the
/// output norm), in the same rows of a.h, and logits, in a.logits; no logits when that has no rows.
/// key.logit_rows = 0 only fills the cache: the last layer then stops after its commit.
void forward(Ops& ops, const Model& model, const KvCache& cache, const Activations& a,
             const StepKey& key, const AttentionObserver& observer = {});

/// The most that a forward pass asks of a backend, for chunks of up to `max_tokens` in a context of
/// `max_context`. `heads` must outlive the result.
[[nodiscard]] OpsPlan forward_plan(const ModelConfig& config, std::int64_t max_tokens,
                                   std::int64_t max_context, const HeadPlan& heads);

/// The parts of a layer that training runs too, for any rows. Rows of one number of tokens.
/// qkv = the projections of h, as they leave the matrices.
void project_qkv(Ops& ops, const Layer& layer, Rows h, Rows qkv);
/// h = norm(x); qkv = the heads of h, not yet rotated.
void project_heads(Ops& ops, const ModelConfig& config, const Layer& layer, Rows x, Rows h,
                   Rows qkv);
/// x_mid = x + output(o); h = norm(x_mid); gate_up = gate_up(h). x_mid may be x.
void project_mlp(Ops& ops, const ModelConfig& config, const Layer& layer, Rows x, Rows o,
                 Rows x_mid, Rows h, Rows gate_up);

}  // namespace sedpa
