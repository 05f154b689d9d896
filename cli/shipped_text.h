#pragma once
#include <string>

namespace sedpa::cli {

/// `asked`, or when that is empty the public-domain text that comes with the program: beside an
/// installed one under share/sedpa/data, or in the data folder of the source tree it was built in.
/// Throws UsageError when it is not found.
[[nodiscard]] std::string text_or_shipped(const std::string& asked);

}  // namespace sedpa::cli
