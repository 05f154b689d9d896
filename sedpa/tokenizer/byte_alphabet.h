#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace sedpa {

/// GPT-2's alphabet: every byte has a printable character of its own, so that a vocabulary of byte
/// strings can be written as text. The 188 bytes that are printable in Latin-1 stand for
/// themselves, the others for U+0100 onwards (Radford et al., 2019, the published encoder).

/// The alphabet's character for a byte, one or two bytes of UTF-8.
[[nodiscard]] std::string_view alphabet_character(std::uint8_t byte);

/// `bytes` spelt in the alphabet, appended to `out`.
void spell_bytes(std::string_view bytes, std::string& out);

/// The bytes that `text` spells; false, with nothing appended, when a character is not in it.
[[nodiscard]] bool unspell_bytes(std::string_view text, std::string& out);

}  // namespace sedpa
