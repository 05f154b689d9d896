#pragma once
// How kernels are launched: always on the backend's stream, and, where the kernel asks for it, so
// that it may begin before the kernel in front of it has ended (programmatic dependent launch, CUDA
// C++ Programming Guide, "Programmatic Dependent Launch and Synchronization"). Such a kernel reads
// what does not change (weights) at once, and calls wait_for_previous() before it touches anything
// that an earlier kernel writes, or writes what an earlier one reads. For .cu files.
#include <cuda_runtime.h>

#include <cstddef>

#include "sedpa/backend/cuda/device.h"

namespace sedpa::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  bool early = false;  // begin while the previous kernel ends
};

template <class... Parameters, class... Arguments>
void launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  // Those that begin early all want the same division into cache and shared memory: else a
  // multiprocessor must run empty first, to be divided anew.
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  config.attrs = attributes;
  config.numAttrs = shape.early ? 2 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

#ifdef __CUDACC__
/// Until all that came before in the stream has been done and is visible.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel of the stream may begin (its wait_for_previous still waits for our end).
__device__ inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

}  // namespace sedpa::cuda
