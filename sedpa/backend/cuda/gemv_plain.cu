#include "sedpa/backend/cuda/gemv_kernel.cuh"

namespace sedpa::cuda {

template void launch_gemv<Dtype::f32>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::f16>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::bf16>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void prepare_gemv_type<Dtype::f32>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::f16>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::bf16>(const DeviceTraits&);

}  // namespace sedpa::cuda
