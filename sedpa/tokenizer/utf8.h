#pragma once
#include <cstddef>
#include <string_view>

namespace sedpa {

/// Bytes that the lead byte of a UTF-8 character announces; 1 for bytes that lead none.
[[nodiscard]] constexpr std::size_t utf8_announced(unsigned char lead) {
  if (lead < 0xC2) return 1;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 1;
}

/// Bytes of the well-formed character at `position` (Unicode 15, table 3-7), or 0 when there is
/// none: no overlong forms, no surrogates, nothing above U+10FFFF.
[[nodiscard]] constexpr std::size_t utf8_character(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = utf8_announced(lead);
  if (length == 1 || text.size() - position < length) return 0;
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

/// The bytes from `position` on that are well-formed UTF-8.
[[nodiscard]] constexpr std::size_t utf8_run(std::string_view text, std::size_t position) {
  std::size_t end = position;
  while (end < text.size()) {
    const std::size_t length = utf8_character(text, end);
    if (length == 0) break;
    end += length;
  }
  return end - position;
}

/// Bytes at the end of `text` that begin a character which is not whole yet (0 to 3).
[[nodiscard]] constexpr std::size_t utf8_incomplete_tail(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // a continuation: its lead stands further left
    if (utf8_announced(byte) <= back) return 0;
    // What has come must be able to become a character: complete it with the bytes that are
    // allowed next and look.
    const std::string_view tail = text.substr(text.size() - back);
    char whole[4] = {tail[0], '\x80', '\x80', '\x80'};
    if (byte == 0xE0) whole[1] = '\xA0';
    if (byte == 0xF0) whole[1] = '\x90';
    for (std::size_t i = 1; i < back; ++i) whole[i] = tail[i];
    return utf8_character({whole, utf8_announced(byte)}, 0) != 0 ? back : 0;
  }
  return 0;
}

}  // namespace sedpa
