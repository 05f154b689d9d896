#pragma once
#include <string>
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

}  // namespace sedpa::test
