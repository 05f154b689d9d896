#pragma once
#include <fmt/format.h>

#include <utility>

#include "sedpa/core/error.h"

namespace sedpa {

/// Throws Error with a formatted line. Host code only: device code includes error.h.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace sedpa
