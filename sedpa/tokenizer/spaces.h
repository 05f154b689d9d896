#pragma once
#include <string>
#include <string_view>

namespace sedpa {

/// SentencePiece's visible space, U+2581 "▁".
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

/// `text` with its spaces made visible, appended to `out`.
inline void append_metaspaced(std::string_view text, std::string& out) {
  out.reserve(out.size() + text.size() + text.size() / 2);
  for (const char c : text) {
    if (c == ' ') {
      out += kMetaspace;
    } else {
      out += c;
    }
  }
}

/// The inverse: "▁" becomes a space.
inline void append_unmetaspaced(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t next = std::min(text.find(kMetaspace, i), text.size());
    out += text.substr(i, next - i);
    if (next < text.size()) out += ' ';
    i = next < text.size() ? next + kMetaspace.size() : next;
  }
}

}  // namespace sedpa
