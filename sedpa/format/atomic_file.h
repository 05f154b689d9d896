#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// A file that appears under its name only when it is complete: written beside it under a temporary
/// name, synced and renamed by commit(). Without commit() the temporary file goes away.
class AtomicFile {
 public:
  /// Throws Error naming the path and the system's reason.
  explicit AtomicFile(std::string path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// Small pieces are written together.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  void flush();
  void write_now(std::span<const std::byte> bytes);
  [[noreturn]] void fail_with_errno(const char* doing) const;

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  std::vector<std::byte> pending_;
};

}  // namespace sedpa
