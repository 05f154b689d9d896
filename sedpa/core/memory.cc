#include "sedpa/core/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

// Reads a "Name:   123 kB" line of a /proc file.
std::uint64_t proc_kilobytes(const char* path, const std::string& name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with(name)) return std::strtoull(line.c_str() + name.size(), nullptr, 10);
  }
  return 0;
}

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

Pages::Pages(std::size_t bytes) {
  if (bytes == 0) return;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    fail("cannot allocate {} bytes of memory: {}", bytes, std::strerror(errno));
  }
  // Large arrays are read from end to end: huge pages save most of the TLB misses.
  if (bytes >= 4 * kHugePage) madvise(mapped, bytes, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(mapped);
  bytes_ = bytes;
}

Pages::~Pages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

std::uint64_t available_memory() { return proc_kilobytes("/proc/meminfo", "MemAvailable:") * 1024; }
std::uint64_t peak_resident_memory() {
  return proc_kilobytes("/proc/self/status", "VmHWM:") * 1024;
}

}  // namespace sedpa
