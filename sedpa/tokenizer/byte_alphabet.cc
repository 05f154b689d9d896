#include "sedpa/tokenizer/byte_alphabet.h"

#include <array>

namespace sedpa {

namespace {

constexpr bool printable_in_latin1(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::array<char, 2>, 256> characters{};
  std::array<std::uint8_t, 256> lengths{};
  std::array<std::int16_t, 0x144> bytes{};  // by code point; -1: not in the alphabet
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const int point = printable_in_latin1(byte) ? byte : next++;
    const auto i = static_cast<std::size_t>(byte);
    if (point < 0x80) {
      alphabet.characters[i] = {static_cast<char>(point), 0};
      alphabet.lengths[i] = 1;
    } else {
      alphabet.characters[i] = {static_cast<char>(0xC0 | (point >> 6)),
                                static_cast<char>(0x80 | (point & 0x3F))};
      alphabet.lengths[i] = 2;
    }
    alphabet.bytes[static_cast<std::size_t>(point)] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::string_view alphabet_character(std::uint8_t byte) {
  return {kAlphabet.characters[byte].data(), kAlphabet.lengths[byte]};
}

void spell_bytes(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) out += alphabet_character(static_cast<std::uint8_t>(byte));
}

bool unspell_bytes(std::string_view text, std::string& out) {
  const std::size_t before = out.size();
  for (std::size_t i = 0; i < text.size();) {
    std::size_t point = static_cast<unsigned char>(text[i]);
    std::size_t length = 1;
    if (point >= 0xC2 && point < 0xE0 && i + 1 < text.size()) {
      point = ((point & 0x1F) << 6) | (static_cast<unsigned char>(text[i + 1]) & 0x3F);
      length = 2;
    } else if (point >= 0x80) {
      point = kAlphabet.bytes.size();
    }
    if (point >= kAlphabet.bytes.size() || kAlphabet.bytes[point] < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(kAlphabet.bytes[point]);
    i += length;
  }
  return true;
}

}  // namespace sedpa
