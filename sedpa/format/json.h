#pragma once
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sedpa {

/// JSON text out of a file, with bounds: throws Error naming `name` when it is longer than
/// `max_bytes`, nested deeper than 64, not UTF-8 or not JSON.
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& name,
                                        std::size_t max_bytes = std::size_t{16} << 20);

}  // namespace sedpa
