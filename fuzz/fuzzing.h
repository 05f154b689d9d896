#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "sedpa/core/error.h"

namespace sedpa::fuzz {

/// What must hold for every input. Stops the fuzzer, which then keeps the input.
inline void require(bool holds) {
  if (!holds) std::abort();
}

/// Runs a parser: it may throw Error with one line that begins with `name`, and nothing else.
template <class Action>
void parse(std::string_view name, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string_view message = error.what();
    require(message.starts_with(name) && message.find('\n') == std::string_view::npos);
  }
}

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline std::span<const std::byte> as_bytes(const std::uint8_t* data, std::size_t size) {
  return std::as_bytes(std::span(data, size));
}

}  // namespace sedpa::fuzz
