#pragma once
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// JSON text is read and written here alone: with bounds, and whatever bytes it holds.
namespace sedpa {

/// The most bytes of JSON text, where nobody says otherwise.
constexpr std::size_t kMostJsonBytes = std::size_t{16} << 20;

/// JSON text out of a file, with bounds: throws Error naming `name` when it is longer than
/// `max_bytes`, nested deeper than 64, not UTF-8 or not JSON.
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& name,
                                        std::size_t max_bytes = kMostJsonBytes);
/// The same; an object's fields stay in the order they were written.
[[nodiscard]] nlohmann::ordered_json parse_ordered_json(std::string_view text,
                                                        const std::string& name,
                                                        std::size_t max_bytes = kMostJsonBytes);

/// In one line, or indented by so many spaces. Bytes that are no UTF-8 are replaced.
[[nodiscard]] std::string json_text(const nlohmann::json& value, int indent = -1);
[[nodiscard]] std::string json_text(const nlohmann::ordered_json& value, int indent = -1);

}  // namespace sedpa
