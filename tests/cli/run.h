#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa::test {

struct Outcome {
  int exit_code = -1;  // 128 + n when a signal n ended the program
  std::string out;
  std::string error;

  /// Lines of `error`.
  [[nodiscard]] int error_lines() const;
};

/// Runs the sedpa program with these arguments and this standard input, to its end.
[[nodiscard]] Outcome run_sedpa(const std::vector<std::string>& arguments,
                                const std::string& input = "");

/// The program refuses these arguments: this exit code, one line on stderr that holds every one of
/// `parts`, nothing on stdout.
void expect_refusal(const std::vector<std::string>& arguments, int exit_code,
                    std::initializer_list<std::string_view> parts, const std::string& input = "");

}  // namespace sedpa::test
