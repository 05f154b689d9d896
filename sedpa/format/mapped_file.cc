#include "sedpa/format/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

std::string errno_text() { return std::generic_category().message(errno); }

/// A descriptor that is only needed until the mapping stands.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

MappedFile MappedFile::open(const std::string& path) {
  // Not blocking, so that a named pipe is refused below instead of waited for.
  const Descriptor descriptor{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (descriptor.value < 0) fail("{}: cannot open: {}", path, errno_text());
  struct stat status {};
  if (::fstat(descriptor.value, &status) != 0) fail("{}: cannot stat: {}", path, errno_text());
  if (S_ISDIR(status.st_mode)) fail("{}: is a directory, expected a file", path);
  if (!S_ISREG(status.st_mode)) fail("{}: is not a regular file", path);

  MappedFile file;
  file.path_ = path;
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return file;  // nothing to map; the parsers say what they miss
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.value, 0);
  if (data == MAP_FAILED) fail("{}: cannot map {} bytes: {}", path, size, errno_text());
  file.data_ = static_cast<const std::byte*>(data);
  file.size_ = size;
  return file;
}

MappedFile MappedFile::from_bytes(std::vector<std::byte> bytes, std::string name) {
  MappedFile file;
  file.path_ = std::move(name);
  file.owned_ = std::move(bytes);
  file.data_ = file.owned_.data();
  file.size_ = file.owned_.size();
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      owned_(std::move(other.owned_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(owned_, other.owned_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr && owned_.empty()) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::drop(std::uint64_t offset, std::uint64_t length) const {
  if (data_ == nullptr || !owned_.empty() || offset >= size_) return;
  if (length > size_ - offset) length = size_ - offset;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = (offset + page - 1) / page * page;
  // The file's last page is whole even where the file ends inside it: nobody else lies there.
  std::uint64_t end = (offset + length) / page * page;
  if (offset + length == size_) end = (size_ + page - 1) / page * page;
  if (begin >= end) return;
  // Only advice: when the system declines, the pages merely stay.
  (void)::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace sedpa
