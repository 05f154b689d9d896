#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace sedpa::test {

/// A GGUF file put together number by number after ggml's docs/gguf.md, without the help of the
/// writer under test, so that each number can also be wrong.
class GgufLayout {
 public:
  GgufLayout(std::uint64_t tensors, std::uint64_t entries, std::uint32_t version = 3) {
    text("GGUF").u32(version).u64(tensors).u64(entries);
  }

  GgufLayout& text(std::string_view value) {
    bytes_ += value;
    return *this;
  }
  GgufLayout& u8(std::uint8_t value) { return number(value); }
  GgufLayout& u32(std::uint32_t value) { return number(value); }
  GgufLayout& u64(std::uint64_t value) { return number(value); }
  GgufLayout& string(std::string_view value) { return u64(value.size()).text(value); }

  /// The record of a tensor; `dimensions` innermost first, as in the file.
  GgufLayout& tensor(std::string_view name, std::initializer_list<std::uint64_t> dimensions,
                     std::uint32_t type, std::uint64_t offset) {
    string(name).u32(static_cast<std::uint32_t>(dimensions.size()));
    for (const std::uint64_t dimension : dimensions) u64(dimension);
    return u32(type).u64(offset);
  }
  /// Zeros up to the alignment, then `count` zero bytes of data.
  GgufLayout& data(std::size_t count, std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + count);
    return *this;
  }

  [[nodiscard]] std::span<const std::byte> bytes() const {
    return std::as_bytes(std::span(bytes_));
  }
  operator std::span<const std::byte>() const { return bytes(); }

 private:
  template <class T>
  GgufLayout& number(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      bytes_ += static_cast<char>(value >> (8 * i) & 0xff);
    }
    return *this;
  }

  std::string bytes_;
};

}  // namespace sedpa::test
