#pragma once
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

// Checks of numbers on the command line. CLI::Range lets NaN through; these do not.
namespace sedpa::cli {

template <class Accepts>
CLI::Validator number_that(Accepts accepts, const std::string& what) {
  return CLI::Validator(
      [accepts, what](std::string& text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && std::isfinite(value) && accepts(value)) {
          return std::string();
        }
        return fmt::format("'{}' is not a number {}", text, what);
      },
      "");
}

inline CLI::Validator share() {
  return number_that([](double value) { return value >= 0 && value <= 1; }, "from 0 to 1");
}
inline CLI::Validator positive_number() {
  return number_that([](double value) { return value > 0; }, "above 0");
}
inline CLI::Validator at_least_zero() {
  return number_that([](double value) { return value >= 0; }, "of 0 or more");
}

}  // namespace sedpa::cli
