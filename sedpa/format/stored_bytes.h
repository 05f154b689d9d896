#pragma once
// What stands in a stored block, byte by byte: for those who lay blocks out anew.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "sedpa/core/dtype.h"

namespace sedpa::stored {

inline std::uint8_t u8(const std::byte* at) { return static_cast<std::uint8_t>(*at); }
inline std::uint32_t u32(const std::byte* at) {
  std::uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
inline float f16(const std::byte* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return f16_to_f32(bits);
}
/// The two 4-bit codes of a byte.
inline std::uint8_t low(std::byte b) { return static_cast<std::uint8_t>(b) & 0xf; }
inline std::uint8_t high(std::byte b) { return static_cast<std::uint8_t>(b) >> 4; }

}  // namespace sedpa::stored
