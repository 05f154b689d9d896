#pragma once
#include <cstdint>
#include <optional>

#include "cli/common.h"

namespace sedpa::cli {

/// --reversed, --shuffled SEED: patterns to compare a pattern with, made from itself.
struct GateOrderOptions {
  bool reversed = false;
  std::optional<std::uint64_t> shuffled;
};

void add_gate_order_options(CLI::App& command, GateOrderOptions& options);

/// As plan_heads, after the pattern's gates have been turned round or handed out by chance: as many
/// heads stream, but others. Throws UsageError without a pattern.
[[nodiscard]] PlannedHeads plan_heads(const HeadOptions& heads, const GateOrderOptions& order,
                                      const Engine& engine);

}  // namespace sedpa::cli
