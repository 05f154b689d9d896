#include "sedpa/backend/cuda/gemm.h"

#include <algorithm>
#include <bit>
#include <span>
#include <string>

#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

/// Shapes whose plans are kept. A server that sees every chunk length has no more use for old ones.
constexpr std::size_t kMostPlans = 4096;

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    fail("cuBLASLt could not {}: {}", what, cublasLtGetStatusString(status));
  }
}

cudaDataType_t data_type(Dtype dtype) {
  return dtype == Dtype::f32 ? CUDA_R_32F : dtype == Dtype::f16 ? CUDA_R_16F : CUDA_R_16BF;
}

/// While a tile's results are written less is multiplied. Behind sums of so few 16-bit numbers that
/// weighs, and smaller tiles lose less, though cuBLASLt names them last (docs/gpu.md): so many of
/// its ways are looked at.
constexpr std::int64_t kShortSum = 2048;
constexpr int kWays = 8;
constexpr std::uint32_t kSmallTile = CUBLASLT_MATMUL_TILE_128x128;

/// The first of small tiles; the first of all where there is none.
const cublasLtMatmulAlgo_t& small_tiles(std::span<const cublasLtMatmulHeuristicResult_t> ways) {
  for (const cublasLtMatmulHeuristicResult_t& way : ways) {
    std::uint32_t tile = 0;
    check_blas(cublasLtMatmulAlgoConfigGetAttribute(&way.algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile,
                                                    sizeof tile, nullptr),
               "name its tile");
    if (tile == kSmallTile) return way.algo;
  }
  return ways.front().algo;
}

/// Bytes, at most 256, that an address is a multiple of.
std::uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data) | 256;
  return 1u << std::countr_zero(address);
}

}  // namespace

/// A product as cuBLASLt sees it: column-major, so D^T = W x^T with W transposed, or D^T = W^T x^T
/// with W as it lies.
struct Gemm::Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t residual = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {w, x, residual, out}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
  }
};

Gemm::Gemm() { check_blas(cublasLtCreate(&handle_), "start"); }

Gemm::~Gemm() {
  plans_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

void Gemm::set_workspace(std::byte* data, std::size_t bytes) {
  if (bytes != workspace_bytes_ || alignment(data) != alignment(workspace_)) plans_.clear();
  workspace_ = data;
  workspace_bytes_ = bytes;
}

const Gemm::Plan& Gemm::plan(const GemmJob& job) {
  const bool has_residual = job.residual != nullptr;
  const auto* residual = has_residual ? reinterpret_cast<const std::byte*>(job.residual) : job.out;
  // A single row may come with any stride; a layout's must hold its column.
  const std::int64_t out_stride = std::max(job.out_stride, job.outputs);
  const std::int64_t residual_stride =
      has_residual ? std::max(job.residual_stride, job.outputs) : out_stride;
  const Key key = {job.rows,
                   job.outputs,
                   job.depth,
                   static_cast<std::int64_t>(job.type),
                   static_cast<std::int64_t>(job.out_type),
                   job.x_stride,
                   job.w_stride,
                   residual_stride,
                   out_stride,
                   alignment(job.x),
                   alignment(job.w),
                   alignment(residual),
                   alignment(job.out),
                   job.turned ? 1 : 0,
                   has_residual ? (residual == job.out ? 2 : 1) : 0};
  if (const auto found = plans_.find(key); found != plans_.end()) return *found->second;
  if (plans_.size() >= kMostPlans) plans_.clear();

  auto plan = std::make_unique<Plan>();
  check_blas(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "describe a product");
  const cublasOperation_t operation = job.turned ? CUBLAS_OP_N : CUBLAS_OP_T;
  check_blas(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &operation,
                                            sizeof operation),
             "describe a product");
  const auto layout = [&](cublasLtMatrixLayout_t* made, Dtype type, std::int64_t rows,
                          std::int64_t cols, std::int64_t stride) {
    check_blas(cublasLtMatrixLayoutCreate(made, data_type(type), static_cast<std::uint64_t>(rows),
                                          static_cast<std::uint64_t>(cols), stride),
               "describe a matrix");
  };
  layout(&plan->w, job.type, job.turned ? job.outputs : job.depth,
         job.turned ? job.depth : job.outputs, job.w_stride);
  layout(&plan->x, job.type, job.depth, job.rows, job.x_stride);
  layout(&plan->residual, job.out_type, job.outputs, job.rows, residual_stride);
  layout(&plan->out, job.out_type, job.outputs, job.rows, out_stride);

  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "state a preference");
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, void (*)(cublasLtMatmulPreference_t)>
      owned(preference, [](cublasLtMatmulPreference_t p) { cublasLtMatmulPreferenceDestroy(p); });
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
               "state a preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes_));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(job.w));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(job.x));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(residual));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(job.out));

  const bool short_sum = job.type != Dtype::f32 && job.depth <= kShortSum;
  std::array<cublasLtMatmulHeuristicResult_t, kWays> found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, plan->product, plan->w, plan->x, plan->residual, plan->out, preference,
      short_sum ? kWays : 1, found.data(), &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    fail("cuBLASLt has no way to multiply {} rows of {} {} numbers by {} columns: {}", job.rows,
         job.depth, name(job.type), job.outputs, cublasLtGetStatusString(status));
  }
  const auto ways = std::span(found).first(static_cast<std::size_t>(count));
  plan->algorithm = short_sum ? small_tiles(ways) : ways.front().algo;
  return *plans_.emplace(key, std::move(plan)).first->second;
}

void Gemm::run(const GemmJob& job, cudaStream_t stream) {
  if (job.rows <= 0 || job.outputs <= 0) return;
  const Plan& p = plan(job);
  const float one = 1;
  const float beta = job.residual != nullptr ? 1 : 0;
  const void* residual = job.residual != nullptr ? static_cast<const void*>(job.residual) : job.out;
  check_blas(
      cublasLtMatmul(handle_, p.product, &one, job.w, p.w, job.x, p.x, &beta, residual, p.residual,
                     job.out, p.out, &p.algorithm, workspace_, workspace_bytes_, stream),
      "multiply");
}

}  // namespace sedpa::cuda
