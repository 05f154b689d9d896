#pragma once
#include <stdexcept>
#include <string>

namespace sedpa {

/// Every failure of the library: one line that names the thing, what was found and what was
/// expected. The library throws it and never prints, exits or aborts.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what) : std::runtime_error(what) {}
};

}  // namespace sedpa
