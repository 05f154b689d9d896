#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sedpa {

/// A whole file, read-only, as bytes: pages are read when they are first touched. The bytes keep
/// their address when the object moves. Cutting the file short while it is mapped is not survived
/// (the system sends SIGBUS): replace model files by renaming, as the writers here do.
class MappedFile {
 public:
  /// Throws Error naming the path and the reason when it is not a readable regular file.
  [[nodiscard]] static MappedFile open(const std::string& path);
  /// The same view over memory, for parsers fed by tests and fuzzers; `name` stands for the path.
  [[nodiscard]] static MappedFile from_bytes(std::vector<std::byte> bytes, std::string name);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] const std::string& path() const { return path_; }

  /// Lets go of the pages that lie wholly inside [offset, offset + length), so that what was read
  /// once does not stay resident. The bytes stay valid and are read again when touched.
  void drop(std::uint64_t offset, std::uint64_t length) const;

 private:
  MappedFile() = default;

  std::string path_;
  std::vector<std::byte> owned_;     // [size_] when the bytes are not a mapping
  const std::byte* data_ = nullptr;  // [size_]
  std::size_t size_ = 0;
};

}  // namespace sedpa
