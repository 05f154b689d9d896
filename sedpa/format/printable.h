#pragma once
#include <string>
#include <string_view>

namespace sedpa {

/// Text out of a file made fit for a one-line message: in quotes, control bytes and bytes that are
/// not UTF-8 as \xNN, cut after 64 bytes.
[[nodiscard]] std::string printable(std::string_view text);

/// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7).
[[nodiscard]] bool is_utf8(std::string_view text);

}  // namespace sedpa
