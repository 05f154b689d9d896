#include "sedpa/format/printable.h"

#include <fmt/format.h>

#include <cstddef>
#include <iterator>

namespace sedpa {
namespace {

/// Bytes of the well-formed sequence at the front of `text`; 0 when there is none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto continues = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xbf) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  if (text.empty()) return 0;
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const unsigned low = lead == 0xe0 ? 0xa0 : 0x80;   // no overlong forms
    const unsigned high = lead == 0xed ? 0x9f : 0xbf;  // no surrogates
    return continues(1, low, high) && continues(2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const unsigned low = lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xf4 ? 0x8f : 0xbf;  // nothing above U+10FFFF
    return continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view text) {
  constexpr std::size_t kLongest = 64;
  std::string out = "\"";
  std::size_t used = 0;
  while (used < text.size() && used < kLongest) {
    const std::string_view rest = text.substr(used);
    const std::size_t length = sequence_length(rest);
    const auto lead = static_cast<unsigned char>(rest.front());
    const bool control =
        lead < 0x20 || lead == 0x7f ||
        (length == 2 && lead == 0xc2 && static_cast<unsigned char>(rest[1]) < 0xa0);
    if (length == 0 || control) {
      const std::size_t bad = length == 0 ? 1 : length;
      for (std::size_t i = 0; i < bad; ++i) {
        fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(rest[i]));
      }
      used += bad;
      continue;
    }
    if (lead == '"' || lead == '\\') out += '\\';
    out += rest.substr(0, length);
    used += length;
  }
  out += '"';
  if (used < text.size()) fmt::format_to(std::back_inserter(out), "... ({} bytes)", text.size());
  return out;
}

}  // namespace sedpa
