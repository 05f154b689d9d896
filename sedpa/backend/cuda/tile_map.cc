#include "sedpa/backend/cuda/tile_map.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>

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

/// box[0] numbers of the first dimension lie side by side; strides are of the others, in bytes.
template <std::uint32_t kRank>
CUtensorMap make_map(KvDtype dtype, const void* data, const std::uint64_t (&sizes)[kRank],
                     const std::uint64_t (&strides)[kRank - 1], const std::uint32_t (&box)[kRank],
                     CUtensorMapSwizzle swizzle) {
  CUtensorMap map;
  std::uint32_t steps[kRank];
  std::fill(std::begin(steps), std::end(steps), 1u);
  const CUresult result = encode_tiled()(
      &map,
      dtype == KvDtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      kRank, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) check(cudaErrorInvalidValue);
  return map;
}

/// A map of a tensor without rows would not be one.
std::uint64_t map_rows(std::int64_t rows) {
  return static_cast<std::uint64_t>(rows > 0 ? rows : 1);
}

}  // namespace

bool has_tile_maps() { return encode_tiled() != nullptr; }

CUtensorMap tile_map(KvDtype dtype, const void* data, int dim, std::int64_t rows,
                     std::int64_t heads, std::int64_t head_rows, int box_rows) {
  const auto row_bytes = 2 * static_cast<std::uint64_t>(dim);
  return make_map<3>(
      dtype, data,
      {static_cast<std::uint64_t>(dim), map_rows(rows), static_cast<std::uint64_t>(heads)},
      {row_bytes, row_bytes * static_cast<std::uint64_t>(head_rows)},
      {64, static_cast<std::uint32_t>(box_rows), 1}, CU_TENSOR_MAP_SWIZZLE_128B);
}

CUtensorMap row_map(KvDtype dtype, const void* data, int dim, std::int64_t rows, std::int64_t heads,
                    std::int64_t head_rows, int box_rows) {
  const auto row_bytes = 2 * static_cast<std::uint64_t>(dim);
  const auto line = static_cast<std::uint32_t>(row_line(dim));
  const std::uint32_t lines = static_cast<std::uint32_t>(dim) / line;
  const CUtensorMapSwizzle swizzle = line == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : line == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                  : CU_TENSOR_MAP_SWIZZLE_NONE;
  return make_map<4>(dtype, data, {line, lines, map_rows(rows), static_cast<std::uint64_t>(heads)},
                     {2 * line, row_bytes, row_bytes * static_cast<std::uint64_t>(head_rows)},
                     {line, lines, static_cast<std::uint32_t>(box_rows), 1}, swizzle);
}

}  // namespace sedpa::cuda
