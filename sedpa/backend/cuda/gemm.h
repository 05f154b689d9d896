#pragma once
// Products of many rows by cuBLASLt. How a shape is computed is looked up once and kept.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

/// out = residual + x w^T, summed in f32; with `turned` weights out = residual + x w. Strides in
/// numbers. x and w are of the same type: f32 (computed in f32, not in tf32), f16 or bf16.
struct GemmJob {
  std::int64_t rows = 0;
  std::int64_t outputs = 0;
  std::int64_t depth = 0;
  Dtype type = Dtype::bf16;
  const std::byte* x = nullptr;  // [rows, x_stride]
  std::int64_t x_stride = 0;
  const std::byte* w = nullptr;  // [outputs, w_stride]; turned: [depth, w_stride]
  std::int64_t w_stride = 0;
  bool turned = false;
  const float* residual = nullptr;  // [rows, residual_stride]; null: none. May be out; f32 out only
  std::int64_t residual_stride = 0;
  Dtype out_type = Dtype::f32;  // or bf16 for products of bf16
  std::byte* out = nullptr;     // [rows, out_stride]
  std::int64_t out_stride = 0;
};

class Gemm {
 public:
  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Memory for all later products; one at a time uses it.
  void set_workspace(std::byte* data, std::size_t bytes);
  /// Throws Error when cuBLASLt has no way to do it.
  void run(const GemmJob& job, cudaStream_t stream);

 private:
  struct Plan;
  /// All that the choice of an algorithm may depend on.
  using Key = std::array<std::int64_t, 15>;
  const Plan& plan(const GemmJob& job);

  cublasLtHandle_t handle_ = nullptr;
  std::byte* workspace_ = nullptr;
  std::size_t workspace_bytes_ = 0;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace sedpa::cuda
