#include "sedpa/backend/cuda/gemv_kernel.cuh"

namespace sedpa::cuda {

template void launch_gemv<Dtype::q8_0>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::q4_0>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::q4_1>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::q5_0>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::q5_1>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void launch_gemv<Dtype::iq4_nl>(const DeviceTraits&, cudaStream_t, const GemvJob&);
template void prepare_gemv_type<Dtype::q8_0>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::q4_0>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::q4_1>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::q5_0>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::q5_1>(const DeviceTraits&);
template void prepare_gemv_type<Dtype::iq4_nl>(const DeviceTraits&);

}  // namespace sedpa::cuda
