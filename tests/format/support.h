#pragma once
#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/core/error.h"
#include "tests/support/temp_dir.h"

namespace sedpa::test {

inline std::string data_path(std::string_view name) {
  return std::string(SEDPA_SOURCE_DIR "/tests/data/format/") + std::string(name);
}

inline std::vector<std::byte> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// Expects `action` to throw Error with a one-line message that holds every one of `parts`.
template <class Action>
void expect_error(Action&& action, std::initializer_list<std::string_view> parts) {
  try {
    action();
  } catch (const Error& error) {
    const std::string_view message = error.what();
    EXPECT_EQ(message.find('\n'), std::string_view::npos) << message;
    for (const std::string_view part : parts) {
      EXPECT_NE(message.find(part), std::string_view::npos)
          << "the message is: " << message << "\n  it lacks: " << part;
    }
    return;
  }
  std::string wanted;
  for (const std::string_view part : parts) wanted += " \"" + std::string(part) + '"';
  ADD_FAILURE() << "no error, expected one with" << wanted;
}

}  // namespace sedpa::test
