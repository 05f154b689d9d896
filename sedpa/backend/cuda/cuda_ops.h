#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sedpa/ops/ops.h"

namespace sedpa {

/// One NVIDIA GPU as the driver describes it.
struct CudaDevice {
  int index = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::uint64_t total_bytes = 0;
};

/// The GPUs that can be used, in the driver's order. Empty where there is no driver or no GPU;
/// `why` (may be null) then says so in a few words. Never throws.
[[nodiscard]] std::vector<CudaDevice> cuda_devices(std::string* why = nullptr);

struct CudaOptions {
  int device = 0;
};

/// Throws Error, naming what is missing, when the device does not exist, is older than compute
/// capability 8.0, or its driver is too old for this build.
[[nodiscard]] std::unique_ptr<Ops> make_cuda_ops(const CudaOptions& options);

/// What the device reaches, measured now: the ceilings that figures are divided by.
struct CudaCeilings {
  double read_bytes_per_second = 0;
  double copy_bytes_per_second = 0;  // bytes read and written
  double bf16_flops_per_second = 0;  // cuBLASLt, 8192 x 8192 x 8192, random numbers
};
[[nodiscard]] CudaCeilings measure_cuda_ceilings(int device);

}  // namespace sedpa
