#include "sedpa/engine/plan_heads.h"

#include "sedpa/core/fail.h"
#include "sedpa/core/log.h"
#include "sedpa/engine/engine.h"
#include "sedpa/format/attention_pattern.h"

namespace sedpa {
namespace {

HeadClass streaming_class(const HeadRequest& request, const AttentionPattern& pattern) {
  const std::int32_t sink = request.sink.value_or(pattern.sink_size);
  const std::int32_t recent = request.recent.value_or(pattern.recent_size);
  if (sink < 0) fail("sink is {} tokens, expected at least 0", sink);
  if (recent < 1) fail("recent is {} tokens, expected at least 1", recent);
  return HeadClass::window(sink, 0, recent);
}

std::string describe(const HeadClass& head_class) {
  if (head_class.full) return "keep everything";
  if (head_class.middle == 0) {
    return fmt::format("keep {} first and {} last tokens", head_class.sink, head_class.recent);
  }
  return fmt::format("keep {} first, {} middle and {} last tokens", head_class.sink,
                     head_class.middle, head_class.recent);
}

}  // namespace

PlannedHeads plan_heads(const Engine& engine, const HeadRequest& request) {
  const ModelConfig& config = engine.config();
  PlannedHeads heads;
  heads.retrieval = request.retrieval_window.value_or(engine.config().native_class());
  if (request.sparsity && !(*request.sparsity >= 0 && *request.sparsity <= 1)) {
    fail("sparsity is {}, expected 0 to 1", *request.sparsity);
  }
  if (request.pattern.empty()) {
    if (request.sparsity.value_or(0) > 0) {
      fail(
          "sparsity {} needs an attention pattern that says which heads may stream: make one with "
          "'sedpa identify' and name it with --pattern",
          *request.sparsity);
    }
    if (request.sink || request.recent) {
      fail("a sink and recent window are for streaming heads and need an attention pattern");
    }
    heads.plan = HeadPlan::uniform(config.layers, config.kv_heads, heads.retrieval);
    return heads;
  }
  const AttentionPattern pattern = load_attention_pattern(request.pattern);
  if (pattern.layers != config.layers || pattern.kv_heads != config.kv_heads) {
    fail("{}: the pattern is for {} layers x {} KV heads, but {} has {} x {}", request.pattern,
         pattern.layers, pattern.kv_heads, engine.model_path(), config.layers, config.kv_heads);
  }
  heads.sparsity = request.sparsity.value_or(0.5);
  heads.streaming = streaming_class(request, pattern);
  heads.plan = HeadPlan::from_gates(pattern.gates, config.layers, config.kv_heads, heads.sparsity,
                                    heads.retrieval, heads.streaming);
  const std::int64_t cut = heads.plan.streaming_above(pattern.gates, kSaturatedGate);
  if (cut > 0) {
    log(fmt::format("{}: at sparsity {} {} heads with gates above {} are cut", request.pattern,
                    heads.sparsity, cut, kSaturatedGate));
  }
  return heads;
}

std::string describe(const HeadPlan& plan) {
  std::int64_t all = 0;
  for (const LayerHeads& layer : plan.layers) all += static_cast<std::int64_t>(layer.order.size());
  const std::int64_t streaming = plan.streaming_heads();
  if (streaming == 0) return "all heads " + describe(plan.classes[kRetrieval]);
  if (streaming == all) return "all heads " + describe(plan.classes[kStreaming]);
  return fmt::format("{} of {} KV heads {}, the others {}", streaming, all,
                     describe(plan.classes[kStreaming]), describe(plan.classes[kRetrieval]));
}

}  // namespace sedpa
