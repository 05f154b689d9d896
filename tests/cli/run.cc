#include "tests/cli/run.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/format/support.h"

extern char** environ;

namespace sedpa::test {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

int Outcome::error_lines() const {
  return static_cast<int>(std::count(error.begin(), error.end(), '\n'));
}

Outcome run_sedpa(const std::vector<std::string>& arguments, const std::string& input) {
  // Files instead of pipes: nothing can block on the other side.
  const TempDir folder;
  const std::string in = folder.put("in", input);
  const std::string out = folder / "out";
  const std::string error = folder / "error";
  ::posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, in.c_str(), O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT,
                                     0600);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, error.c_str(), O_WRONLY | O_CREAT,
                                     0600);
  std::vector<std::string> words = {SEDPA_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::pid_t child = 0;
  const int failure =
      ::posix_spawn(&child, SEDPA_PROGRAM, &actions, nullptr, pointers.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  Outcome outcome;
  if (failure != 0) {
    ADD_FAILURE() << "cannot start " << SEDPA_PROGRAM;
    return outcome;
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = text_of(out);
  outcome.error = text_of(error);
  return outcome;
}

void expect_refusal(const std::vector<std::string>& arguments, int exit_code,
                    std::initializer_list<std::string_view> parts, const std::string& input) {
  const Outcome outcome = run_sedpa(arguments, input);
  std::string command = "sedpa";
  for (const std::string& argument : arguments) command += " " + argument;
  SCOPED_TRACE(command + "\n" + outcome.error);
  EXPECT_EQ(outcome.exit_code, exit_code);
  EXPECT_EQ(outcome.error_lines(), 1);
  EXPECT_TRUE(outcome.error.starts_with("sedpa: "));
  EXPECT_EQ(outcome.out, "");
  for (const std::string_view part : parts) {
    EXPECT_NE(outcome.error.find(part), std::string::npos) << "it lacks: " << part;
  }
}

}  // namespace sedpa::test
