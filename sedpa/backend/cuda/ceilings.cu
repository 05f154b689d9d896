// The device's ceilings, measured: reading, copying, and the tensor cores through cuBLASLt.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "sedpa/backend/cuda/ceilings.h"
#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

constexpr int kRepeats = 9;
constexpr std::size_t kLargest = std::size_t{4} << 30;  // many times the caches

/// Reads everything; the sum keeps the loads.
__global__ void read_kernel(const uint4* from, std::size_t count, unsigned* sum) {
  unsigned bits = 0;
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  constexpr int kAtOnce = 8;
  for (; i + (kAtOnce - 1) * step < count; i += kAtOnce * step) {
    uint4 loaded[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) loaded[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) bits ^= loaded[k].x ^ loaded[k].y ^ loaded[k].z ^ loaded[k].w;
  }
  for (; i < count; i += step) bits ^= from[i].x;
  if (bits == 0x9e3779b9u) *sum = bits;
}

__device__ std::uint32_t mix(std::uint64_t i) {
  i = (i + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
  i = (i ^ (i >> 27)) * 0x94d049bb133111ebull;
  return static_cast<std::uint32_t>(i >> 32);
}

/// Numbers between -1 and 1: products of zeros run faster than real ones.
__global__ void fill_kernel(__nv_bfloat16* to, std::size_t count) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    to[i] = __float2bfloat16(static_cast<float>(mix(i)) * 0x1p-31f - 1.0f);
  }
}

/// The median of several runs, in seconds.
double seconds(const std::function<void()>& work, cudaStream_t stream) {
  cudaEvent_t begin;
  cudaEvent_t end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> all;
  for (int i = 0; i < kRepeats + 2; ++i) {
    check(cudaEventRecord(begin, stream));
    work();
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 2) all.push_back(milliseconds);
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  std::nth_element(all.begin(), all.begin() + kRepeats / 2, all.end());
  return all[kRepeats / 2] * 1e-3;
}

double product_seconds(std::byte* memory, int size, cudaStream_t stream) {
  const std::size_t count = static_cast<std::size_t>(size) * size;
  auto* a = reinterpret_cast<__nv_bfloat16*>(memory);
  __nv_bfloat16* b = a + count;
  __nv_bfloat16* c = b + count;
  std::byte* workspace = reinterpret_cast<std::byte*>(c + count);
  std::size_t workspace_bytes = std::size_t{32} << 20;
  fill_kernel<<<1024, 256, 0, stream>>>(a, 2 * count);
  check_launch();

  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t found{};
  int results = 0;
  const cublasOperation_t transpose = CUBLAS_OP_T;
  const auto ok = [](cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS; };
  if (!ok(cublasLtCreate(&handle))) return 0;
  cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                 sizeof transpose);
  cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, size, size, size);
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                       &workspace_bytes, sizeof workspace_bytes);
  double result = 0;
  if (ok(cublasLtMatmulAlgoGetHeuristic(handle, product, layout, layout, layout, layout, preference,
                                        1, &found, &results)) &&
      results == 1) {
    const float one = 1;
    const float zero = 0;
    result = seconds(
        [&] {
          (void)cublasLtMatmul(handle, product, &one, a, layout, b, layout, &zero, c, layout, c,
                               layout, &found.algo, workspace, workspace_bytes, stream);
        },
        stream);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(product);
  cublasLtDestroy(handle);
  return result;
}

}  // namespace

MeasuredCeilings measure_ceilings(std::byte* memory, std::size_t bytes, int multiprocessors,
                                  cudaStream_t stream) {
  MeasuredCeilings found;
  auto* sum = reinterpret_cast<unsigned*>(memory);
  check(cudaMemsetAsync(memory, 0x5a, bytes, stream));
  const double read = seconds(
      [&] {
        read_kernel<<<multiprocessors * 4, 512, 0, stream>>>(reinterpret_cast<const uint4*>(memory),
                                                             bytes / sizeof(uint4), sum);
        check_launch();
      },
      stream);
  found.read_bytes_per_second = static_cast<double>(bytes) / read;
  const std::size_t half = bytes / 2;
  const double copied = seconds(
      [&] {
        check(cudaMemcpyAsync(memory + half, memory, half, cudaMemcpyDeviceToDevice, stream));
      },
      stream);
  found.copy_bytes_per_second = 2 * static_cast<double>(half) / copied;
  const int size = bytes >= kLargest / 4 ? 8192 : 2048;
  const double product = product_seconds(memory, size, stream);
  if (product > 0) found.bf16_flops_per_second = 2.0 * size * size * size / product;
  return found;
}

std::size_t ceilings_bytes(std::size_t free_bytes) {
  constexpr std::size_t kSmallest = std::size_t{256} << 20;
  for (std::size_t bytes = kLargest; bytes >= kSmallest; bytes /= 2) {
    if (bytes + kSmallest <= free_bytes) return bytes;
  }
  return 0;
}

}  // namespace sedpa::cuda
