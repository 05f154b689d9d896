#pragma once

namespace CLI {
class App;
}

// Each adds its subcommand to the program. A subcommand runs in its callback and throws on failure.
namespace sedpa::cli {

void add_info(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_generate(CLI::App& app);
void add_bench(CLI::App& app);
void add_identify(CLI::App& app);
void add_compress(CLI::App& app);
void add_eval(CLI::App& app);

}  // namespace sedpa::cli
