#pragma once
// y = W x on the device. One row (decode) is a product of a matrix and a vector that streams the
// weights once (gemv.cu); more rows go through cuBLASLt, quantised weights slab by slab (gemm.cc).
// Norm, SwiGLU and residual are fused into their neighbours.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/ops.h"
#include "sedpa/ops/weight.h"

namespace sedpa::cuda {

class DecodeProgram;

/// RMS norm of a row before it is multiplied.
struct Norm {
  const float* weight = nullptr;  // [cols]; null: no norm
  float epsilon = 0;
  bool operator==(const Norm&) const = default;
};

/// out = residual + linear(norm(x)); norm, residual optional. x [n, in], out [n, out] or, with
/// `swiglu`, [n, out / 2]: silu(first half) * second half. Row strides are arbitrary numbers of
/// floats and rows need not be 16-byte aligned. out may be residual; else nothing overlaps.
struct LinearJob {
  const Linear* linear = nullptr;
  Rows x;
  Norm norm;
  bool swiglu = false;  // not together with residual
  Rows residual;        // data null: none
  Rows out;
};

/// out = residual + down(silu(gate) * up), [gate | up] = gate_up(norm(x)), in two products without
/// f32 rows in memory between them where there are many rows.
struct MlpJob {
  const Linear* gate_up = nullptr;
  const Linear* down = nullptr;
  Rows x;
  Norm norm;
  Rows act;  // [n, mlp width]: memory that a backend may use between the products
  Rows residual;
  Rows out;
};

/// Linears that go side by side: query, key and value.
inline constexpr std::int64_t kMostSideBySide = 3;

class LinearRunner {
 public:
  LinearRunner(const DeviceTraits& device, cudaStream_t stream);
  ~LinearRunner();

  /// Exactly what reserve allocates on the device.
  [[nodiscard]] std::size_t scratch_bytes(const OpsPlan& plan) const;
  void reserve(const OpsPlan& plan);

  /// Throw Error when shapes disagree or exceed what was reserved. For one row nothing but kernels
  /// is asked of the stream, so that it can be captured.
  void run(const LinearJob& job);
  void run(const MlpJob& job);
  /// The same as one after the other. None reads or writes what another writes: single rows of up
  /// to kMostSideBySide take no more time than one product of all their bytes, and many rows that
  /// are the same for all are normed and rounded once.
  void run(std::span<const LinearJob> jobs);
  /// Products of single rows become phases of `program` where it takes them, until it is null
  /// again.
  void set_program(DecodeProgram* program);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// out[t] = row ids[t] of the table, for t < rows (on the device: rows of the launch, not of the
/// step). ids in device memory.
void embed(const Weight& table, const std::int32_t* ids, Rows out, cudaStream_t stream);

// --- Weights (weights.cc) ---------------------------------------------------------------------

/// Bytes of a band in this backend's layout (weight_format.h).
[[nodiscard]] std::size_t band_bytes(Dtype dtype, std::int64_t rows, std::int64_t cols);
/// Stacks the sources into one Weight: rows are read in slabs, repacked on the host where the
/// layout asks for it, and copied through pinned buffers while the next slab is read.
[[nodiscard]] Weight make_weight(std::span<const MatrixSource> bands, cudaStream_t stream);

}  // namespace sedpa::cuda
