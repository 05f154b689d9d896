#include "sedpa/backend/cuda/device.h"

#include <string_view>

#include "sedpa/backend/cuda/cuda_ops.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

[[noreturn]] void fail_for_memory(std::size_t bytes) {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  (void)cudaGetLastError();  // the failed allocation is no lasting error
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  fail("{} bytes of device memory were asked for, but {} of {} are free", bytes, free_bytes,
       total_bytes);
}

}  // namespace

void check(cudaError_t status, std::source_location where) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  fail("CUDA: {} ({}, line {})", cudaGetErrorString(status), base_name(where.file_name()),
       where.line());
}

void check_launch(std::source_location where) { check(cudaGetLastError(), where); }

DeviceMemory::DeviceMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  // Whole pieces of 16 bytes, in which some kernels copy.
  const cudaError_t status = cudaMalloc(&data, (bytes + 15) / 16 * 16);
  if (status == cudaErrorMemoryAllocation) fail_for_memory(bytes);
  check(status);
  data_ = std::shared_ptr<std::byte>(static_cast<std::byte*>(data),
                                     [](std::byte* memory) { (void)cudaFree(memory); });
}

PinnedMemory::PinnedMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes));
  data_ = std::shared_ptr<std::byte>(static_cast<std::byte*>(data),
                                     [](std::byte* memory) { (void)cudaFreeHost(memory); });
}

DeviceTraits device_traits(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index));
  return {.index = index,
          .multiprocessors = properties.multiProcessorCount,
          .compute = 10 * properties.major + properties.minor,
          .shared_bytes_a_block = properties.sharedMemPerBlockOptin,
          .l2_bytes = static_cast<std::size_t>(properties.l2CacheSize)};
}

DeviceScope::DeviceScope(int index) {
  check(cudaGetDevice(&before_));
  if (before_ != index) check(cudaSetDevice(index));
}

DeviceScope::~DeviceScope() { (void)cudaSetDevice(before_); }

}  // namespace sedpa::cuda

namespace sedpa {

std::vector<CudaDevice> cuda_devices(std::string* why) {
  std::vector<CudaDevice> devices;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    if (why != nullptr) *why = cudaGetErrorString(status);
    return devices;
  }
  if (count == 0 && why != nullptr) *why = "the driver lists no device";
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    CudaDevice device{.index = i,
                      .name = properties.name,
                      .major = properties.major,
                      .minor = properties.minor,
                      .multiprocessors = properties.multiProcessorCount,
                      .total_bytes = properties.totalGlobalMem};
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace sedpa
