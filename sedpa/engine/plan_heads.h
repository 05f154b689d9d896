#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "sedpa/attention/head_plan.h"

namespace sedpa {

class Engine;

/// SEDPA-W's window: what retrieval heads keep when they are to be bounded and nothing else is
/// said.
inline constexpr HeadClass kRetrievalWindow{
    .full = false, .sink = 256, .middle = 512, .recent = 4096};

/// What a user says about heads; everything empty is plain full attention.
struct HeadRequest {
  std::string pattern = {};                 // directory of an attention pattern; empty: none
  std::optional<double> sparsity = {};      // share of KV heads that stream; a pattern alone: 0.5
  std::optional<std::int32_t> sink = {};    // of streaming heads, instead of the pattern's
  std::optional<std::int32_t> recent = {};  // the same
  /// What the other heads keep, instead of everything.
  std::optional<HeadClass> retrieval_window = {};
};

/// A head plan and the settings that it came from.
struct PlannedHeads {
  HeadPlan plan;
  double sparsity = 0;
  HeadClass retrieval;
  HeadClass streaming;  // that of heads which stream; only meaningful when some do

  [[nodiscard]] bool streams() const { return plan.streaming_heads() > 0; }
};

/// Loads the pattern, if one is named, and splits the model's heads by it. Throws Error when the
/// pattern does not fit the model (naming both shapes), when sparsity is outside [0, 1], or when
/// heads are to stream without a pattern that says which.
[[nodiscard]] PlannedHeads plan_heads(const Engine& engine, const HeadRequest& request);

/// "45 of 90 KV heads stream (sink 64, recent 256), the others keep everything".
[[nodiscard]] std::string describe(const HeadPlan& plan);

}  // namespace sedpa
