#include "sedpa/format/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr std::size_t kPendingBytes = std::size_t{1} << 20;

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path_, ignored)) {
    fail("{}: is a directory, expected the name of a file", path_);
  }
  static std::atomic<unsigned> counter{0};  // two writers of one process never share a name
  do {
    temporary_ = fmt::format("{}.{}-{}.tmp", path_, ::getpid(), counter.fetch_add(1));
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) fail_with_errno("create");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  if (pending_.size() + bytes.size() > kPendingBytes) flush();
  if (bytes.size() >= kPendingBytes) return write_now(bytes);
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
}

void AtomicFile::flush() {
  write_now(pending_);
  pending_.clear();
}

void AtomicFile::write_now(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ::ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_errno("write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  flush();
  if (::fsync(descriptor_) != 0 && errno != EINVAL) fail_with_errno("write");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno("rename into place");
  ::close(std::exchange(descriptor_, -1));
}

void AtomicFile::fail_with_errno(const char* doing) const {
  fail("{}: cannot {}: {}", path_, doing, std::generic_category().message(errno));
}

}  // namespace sedpa
