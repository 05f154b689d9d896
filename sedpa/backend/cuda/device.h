#pragma once
// What all files of this backend share: checked calls and memory that returns itself. Host only.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <source_location>

namespace sedpa::cuda {

/// Throws Error with CUDA's own words when a call has failed.
void check(cudaError_t status, std::source_location where = std::source_location::current());
/// The same for a launch that has just been asked for.
void check_launch(std::source_location where = std::source_location::current());

/// Device memory by cudaMalloc; throws Error with both numbers when there is not enough.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes);
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  [[nodiscard]] const std::shared_ptr<std::byte>& storage() const { return data_; }

 private:
  std::shared_ptr<std::byte> data_;
  std::size_t bytes_ = 0;
};

/// Page-locked host memory, which the device can copy from while the host goes on.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes);
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return bytes_; }

 private:
  std::shared_ptr<std::byte> data_;
  std::size_t bytes_ = 0;
};

/// What kernels need to know of the device.
struct DeviceTraits {
  int index = 0;
  int multiprocessors = 0;
  int compute = 0;                       // 10 * major + minor: 80, 90
  std::size_t shared_bytes_a_block = 0;  // with the opt-in
  std::size_t l2_bytes = 0;
};
[[nodiscard]] DeviceTraits device_traits(int index);

/// Makes a device the calling thread's for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int index);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

}  // namespace sedpa::cuda
