#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/eval_commands.h"

namespace sedpa::cli {

void add_eval(CLI::App& app) {
  CLI::App& eval = *app.add_subcommand("eval", "measure how well a model does");
  eval.require_subcommand(1);
  eval.footer("'sedpa eval COMMAND --help' shows a command's options and an example.");
  add_eval_perplexity(eval);
  add_eval_passkey(eval);
  add_eval_niah(eval);
  add_eval_masking(eval);
  add_eval_frontier(eval);
}

}  // namespace sedpa::cli
