#include "sedpa/backend/cuda/gemv_kernel.cuh"

namespace sedpa::cuda {

template void launch_gemv<Dtype::q4_k>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::q5_k>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::q6_k>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void prepare_gemv_type<Dtype::q4_k>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::q5_k>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::q6_k>(const DeviceTraits&);

}  // namespace sedpa::cuda
