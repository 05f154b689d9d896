#include "sedpa/backend/cuda/gemv.h"

#include <algorithm>

namespace sedpa::cuda {

// Compiled in gemv_plain.cu, gemv_blocks.cu and gemv_k_blocks.cu.
template <Dtype kDtype>
void launch_gemv(const DeviceTraits& device, cudaStream_t stream, const GemvJob& job);
template <Dtype kDtype>
void prepare_gemv_type(const DeviceTraits& device);

void prepare_gemv(const DeviceTraits& device) {
  prepare_gemv_type<Dtype::f32>(device);
  prepare_gemv_type<Dtype::f16>(device);
  prepare_gemv_type<Dtype::bf16>(device);
  prepare_gemv_type<Dtype::q8_0>(device);
  prepare_gemv_type<Dtype::q4_0>(device);
  prepare_gemv_type<Dtype::q4_1>(device);
  prepare_gemv_type<Dtype::q5_0>(device);
  prepare_gemv_type<Dtype::q5_1>(device);
  prepare_gemv_type<Dtype::q4_k>(device);
  prepare_gemv_type<Dtype::q5_k>(device);
  prepare_gemv_type<Dtype::q6_k>(device);
  prepare_gemv_type<Dtype::iq4_nl>(device);
}

void gemv(const DeviceTraits& device, cudaStream_t stream, Dtype dtype, const GemvJob& job) {
  switch (dtype) {
    case Dtype::f32:
      return launch_gemv<Dtype::f32>(device, stream, job);
    case Dtype::f16:
      return launch_gemv<Dtype::f16>(device, stream, job);
    case Dtype::bf16:
      return launch_gemv<Dtype::bf16>(device, stream, job);
    case Dtype::q8_0:
      return launch_gemv<Dtype::q8_0>(device, stream, job);
    case Dtype::q4_0:
      return launch_gemv<Dtype::q4_0>(device, stream, job);
    case Dtype::q4_1:
      return launch_gemv<Dtype::q4_1>(device, stream, job);
    case Dtype::q5_0:
      return launch_gemv<Dtype::q5_0>(device, stream, job);
    case Dtype::q5_1:
      return launch_gemv<Dtype::q5_1>(device, stream, job);
    case Dtype::q4_k:
      return launch_gemv<Dtype::q4_k>(device, stream, job);
    case Dtype::q5_k:
      return launch_gemv<Dtype::q5_k>(device, stream, job);
    case Dtype::q6_k:
      return launch_gemv<Dtype::q6_k>(device, stream, job);
    case Dtype::iq4_nl:
      return launch_gemv<Dtype::iq4_nl>(device, stream, job);
  }
}

std::int32_t gemv_ctas(const DeviceTraits& device, const GemvJob& job) {
  return static_cast<std::int32_t>(std::min<std::int64_t>(job.outputs, device.multiprocessors));
}

}  // namespace sedpa::cuda
