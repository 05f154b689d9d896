#include "sedpa/backend/cuda/tile_map.h"

#include <cuda_runtime_api.h>

#include "sedpa/backend/cuda/device.h"

namespace sedpa::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found at run time: nothing links to the driver. Null: too old a driver.
EncodeTiled encode_tiled() {
  static const EncodeTiled found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                12000, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<EncodeTiled>(function);
  }();
  return found;
}

}  // namespace

bool has_tile_maps() { return encode_tiled() != nullptr; }

CUtensorMap tile_map(KvDtype dtype, const void* data, int dim, std::int64_t rows,
                     std::int64_t heads, std::int64_t head_rows, int box_rows) {
  CUtensorMap map;
  const std::uint64_t sizes[] = {static_cast<std::uint64_t>(dim),
                                 static_cast<std::uint64_t>(rows > 0 ? rows : 1),
                                 static_cast<std::uint64_t>(heads)};
  const std::uint64_t row_bytes = 2 * static_cast<std::uint64_t>(dim);
  const std::uint64_t strides[] = {row_bytes, row_bytes * static_cast<std::uint64_t>(head_rows)};
  const std::uint32_t box[] = {64, static_cast<std::uint32_t>(box_rows), 1};
  const std::uint32_t steps[] = {1, 1, 1};
  const CUresult result = encode_tiled()(
      &map,
      dtype == KvDtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      3, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) check(cudaErrorInvalidValue);
  return map;
}

}  // namespace sedpa::cuda
