#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace sedpa {

/// FNV-1a, 64 bits: enough to tell files and settings apart, no defence against an adversary.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) state_ = (state_ ^ std::to_integer<std::uint64_t>(b)) * kPrime;
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text.data(), text.size()))); }
  [[nodiscard]] std::uint64_t value() const { return state_; }
  /// 16 hexadecimal digits.
  [[nodiscard]] std::string digits() const { return fmt::format("{:016x}", state_); }

 private:
  static constexpr std::uint64_t kPrime = 0x100000001b3u;
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

}  // namespace sedpa
