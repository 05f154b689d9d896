#include "cli/gate_order.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "sedpa/format/attention_pattern.h"
#include "sedpa/identify/random.h"

namespace sedpa::cli {

void add_gate_order_options(CLI::App& command, GateOrderOptions& options) {
  const std::string group = "Heads";
  CLI::Option* reversed =
      command.add_flag("--reversed", options.reversed,
                       "let the heads with the highest gates stream: a good pattern then fails");
  CLI::Option* shuffled =
      command
          .add_option(
              "--shuffled", options.shuffled,
              "hand the pattern's gates out by chance: what any pattern must be better than")
          ->type_name("SEED");
  reversed->excludes(shuffled)->group(group);
  shuffled->group(group);
}

PlannedHeads plan_heads(const HeadOptions& heads, const GateOrderOptions& order,
                        const Engine& engine) {
  if (!order.reversed && !order.shuffled) return plan_heads(heads, engine);
  if (heads.pattern.empty()) {
    throw UsageError(
        fmt::format("{} needs --pattern DIR", order.reversed ? "--reversed" : "--shuffled"));
  }
  PlannedHeads planned = plan_heads(heads, engine);
  AttentionPattern pattern = load_attention_pattern(heads.pattern);
  if (order.reversed) {
    for (double& gate : pattern.gates) gate = 1 - gate;
  } else {
    Random(*order.shuffled).shuffle(pattern.gates);
  }
  planned.plan = HeadPlan::from_gates(pattern.gates, pattern.layers, pattern.kv_heads,
                                      planned.sparsity, planned.retrieval, planned.streaming);
  return planned;
}

}  // namespace sedpa::cli
