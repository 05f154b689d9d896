#pragma once
#include "sedpa/attention/kv_cache.h"
#include "sedpa/model/activations.h"
#include "sedpa/model/model.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

/// What looks at the attention of each layer as it passes, as head identification does, or changes
/// it, as masking does: `qkv` are the rotated rows of the chunk, `o` what attention made of them,
/// before the output projection. It may read rows (Ops::read) and ask for operations on `o`.
using AttentionObserver = std::function<void(std::int32_t layer, Rows qkv, Rows o)>;

/// One forward pass over the step that `ops.begin_step` was given: the chunk's keys and values are
/// committed to the cache, and the last key.logit_rows rows get logits, in a.logits.
/// key.logit_rows = 0 only fills the cache: the last layer then stops after its commit.
void forward(Ops& ops, const Model& model, const KvCache& cache, const Activations& a,
             const StepKey& key, const AttentionObserver& observer = {});

}  // namespace sedpa
