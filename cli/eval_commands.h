#pragma once
#include <cstdint>

namespace CLI {
class App;
}

// The subcommands of `sedpa eval`.
namespace sedpa::cli {

inline constexpr std::int64_t kLogitRows = 128;  // rows of one pass that get logits

void add_eval_perplexity(CLI::App& eval);
void add_eval_passkey(CLI::App& eval);
void add_eval_niah(CLI::App& eval);
void add_eval_masking(CLI::App& eval);
void add_eval_frontier(CLI::App& eval);

}  // namespace sedpa::cli
