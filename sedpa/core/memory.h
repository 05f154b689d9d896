#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace sedpa {

/// Zero-filled pages from the operating system, 64-byte aligned at least, returned on destruction.
/// Pages count as resident only once touched. Throws Error with the size when none can be had.
class Pages {
 public:
  Pages() = default;
  explicit Pages(std::size_t bytes);
  Pages(Pages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Bytes of physical memory that the machine can still give; 0 when it cannot be told.
[[nodiscard]] std::uint64_t available_memory();
/// The largest resident size that this process has had, in bytes; 0 when it cannot be told.
[[nodiscard]] std::uint64_t peak_resident_memory();

}  // namespace sedpa
