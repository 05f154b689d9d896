#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <string>

#include "cli/commands.h"
#include "cli/common.h"
#include "sedpa/core/error.h"

namespace {

constexpr int kFailure = 1;
constexpr int kBadUsage = 2;
constexpr int kInterrupted = 130;

// One line, whatever the message holds.
int complain(std::string message, int exit_code) {
  while (!message.empty() && message.back() == '\n') message.pop_back();
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "sedpa: %s\n", message.c_str());
  return exit_code;
}

void add_commands(CLI::App& app) {
  using namespace sedpa::cli;
  add_info(app);
  add_tokenize(app);
  add_generate(app);
  add_bench(app);
#ifdef SEDPA_CLI_IDENTIFY
  add_identify(app);
#endif
#ifdef SEDPA_CLI_COMPRESS
  add_compress(app);
#endif
#ifdef SEDPA_CLI_EVAL
  add_eval(app);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Long-context language model inference with retrieval and streaming heads", "sedpa");
  app.set_version_flag("--version", "sedpa " SEDPA_VERSION);
  app.require_subcommand(1);
  app.footer("'sedpa COMMAND --help' shows a command's options and an example.");
  try {
    sedpa::cli::install_handlers();
    add_commands(app);
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return complain(error.what(), kBadUsage);
  } catch (const sedpa::cli::UsageError& error) {
    return complain(error.what(), kBadUsage);
  } catch (const sedpa::cli::Interrupted&) {
    return kInterrupted;
  } catch (const sedpa::Error& error) {
    return complain(error.what(), kFailure);
  } catch (const std::bad_alloc&) {
    return complain("not enough memory", kFailure);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailure);
  }
  return 0;
}
