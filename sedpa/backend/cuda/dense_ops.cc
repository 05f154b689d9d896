#include "sedpa/backend/cuda/dense_ops.h"

#include <cublasLt.h>

#include <algorithm>

#include "sedpa/backend/cuda/dense_libraries.h"
#include "sedpa/backend/cuda/dense_rows.h"
#include "sedpa/backend/cuda/device.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  // The same codes as cuBLASLt's, which has words for them and is linked.
  fail("cuBLAS could not {}: {}", what, cublasLtGetStatusString(status));
}

void check_solver(cusolverStatus_t status, const char* what) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  fail("cuSOLVER could not {}: {}", what,
       status == CUSOLVER_STATUS_ALLOC_FAILED ? "device memory is short"
                                              : fmt::format("status {}", static_cast<int>(status)));
}

/// What the libraries keep between calls.
class Handles {
 public:
  explicit Handles(cudaStream_t stream) : all(dense_libraries()) {
    check_blas(all.cublas_create(&blas), "start");
    check_blas(all.cublas_set_stream(blas, stream), "take a stream");
    check_solver(all.solver_create(&solver), "start");
    check_solver(all.solver_set_stream(solver, stream), "take a stream");
    check_solver(all.solver_create_params(&params), "start");
  }
  ~Handles() {
    if (params != nullptr) all.solver_destroy_params(params);
    if (solver != nullptr) all.solver_destroy(solver);
    if (blas != nullptr) all.cublas_destroy(blas);
  }
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;

  const DenseLibraries& all;
  cublasHandle_t blas = nullptr;
  cusolverDnHandle_t solver = nullptr;
  cusolverDnParams_t params = nullptr;
};

struct Workspace {
  std::size_t device_bytes = 0;
  std::size_t host_bytes = 0;
};

DenseView view(const DenseMatrix& m) { return {m.data, m.rows, m.cols, m.stride}; }

std::size_t bytes_of(std::int64_t rows, std::int64_t cols) {
  return static_cast<std::size_t>(rows * cols) * sizeof(double);
}

/// cuBLAS and cuSOLVER count by columns: what lies here row by row is its transpose to them.
class CudaDenseOps final : public DenseOps {
 public:
  explicit CudaDenseOps(cudaStream_t stream) : stream_(stream) {}

  [[nodiscard]] DenseMatrix make(std::int64_t rows, std::int64_t cols) override {
    const DeviceMemory memory(bytes_of(rows, cols));
    if (memory.size() > 0) check(cudaMemsetAsync(memory.data(), 0, memory.size(), stream_));
    return {reinterpret_cast<double*>(memory.data()), rows, cols, cols, memory.storage()};
  }
  void widen(Rows from, const DenseMatrix& to) override {
    check_same_shape(from, to);
    cuda::widen(from, view(to), stream_);
  }
  void narrow(const DenseMatrix& from, Rows to) override {
    check_same_shape(to, from);
    cuda::narrow(view(from), to, stream_);
  }

  [[nodiscard]] std::vector<double> diagonal(const DenseMatrix& m) override {
    check_square(m);
    std::vector<double> numbers(static_cast<std::size_t>(m.rows));
    if (m.rows == 0) return numbers;
    // Through dense memory of the device: the bus takes one piece better than thousands.
    const DeviceMemory line(bytes_of(m.rows, 1));
    check(cudaMemcpy2DAsync(line.data(), sizeof(double), m.data, diagonal_pitch(m), sizeof(double),
                            numbers.size(), cudaMemcpyDeviceToDevice, stream_));
    check(
        cudaMemcpyAsync(numbers.data(), line.data(), line.size(), cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
    return numbers;
  }
  void set_diagonal(const DenseMatrix& m, const std::vector<double>& numbers) override {
    check_square(m);
    if (std::ssize(numbers) != m.rows) {
      fail("{} numbers are no diagonal of {} x {}", numbers.size(), m.rows, m.cols);
    }
    if (m.rows == 0) return;
    const DeviceMemory line(bytes_of(m.rows, 1));
    check(
        cudaMemcpyAsync(line.data(), numbers.data(), line.size(), cudaMemcpyHostToDevice, stream_));
    check(cudaMemcpy2DAsync(m.data, diagonal_pitch(m), line.data(), sizeof(double), sizeof(double),
                            numbers.size(), cudaMemcpyDeviceToDevice, stream_));
    check(cudaStreamSynchronize(stream_));
  }

  void solve(const DenseMatrix& a, const DenseMatrix& b) override {
    check_equations(a, b);
    if (a.rows == 0 || b.cols == 0) return;
    const Handles& h = handles();
    Workspace need;
    check_solver(
        h.all.potrf_buffer_size(h.solver, h.params, CUBLAS_FILL_MODE_LOWER, a.rows, CUDA_R_64F,
                                a.data, a.stride, CUDA_R_64F, &need.device_bytes, &need.host_bytes),
        "plan a factorization");
    const DeviceMemory work(need.device_bytes);
    std::vector<std::byte> host(need.host_bytes);
    const DeviceMemory status(sizeof(int));
    check_solver(h.all.potrf(h.solver, h.params, CUBLAS_FILL_MODE_LOWER, a.rows, CUDA_R_64F, a.data,
                             a.stride, CUDA_R_64F, work.data(), need.device_bytes, host.data(),
                             need.host_bytes, reinterpret_cast<int*>(status.data())),
                 "factorize a matrix");
    if (const int where = read_int(status); where != 0) fail_not_definite(a.rows, where);
    // a = L L'. As columns lie, the right sides are rows: X = B L'^-1 L^-1.
    const double one = 1;
    for (const cublasOperation_t operation : {CUBLAS_OP_T, CUBLAS_OP_N}) {
      check_blas(h.all.cublas_dtrsm(h.blas, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_LOWER, operation,
                                    CUBLAS_DIAG_NON_UNIT, b.cols, a.rows, &one, a.data, a.stride,
                                    b.data, b.stride),
                 "solve equations");
    }
  }

  [[nodiscard]] std::vector<double> eigen(DenseMatrix& symmetric) override {
    check_square(symmetric);
    const std::int64_t n = symmetric.rows;
    std::vector<double> values(static_cast<std::size_t>(n));
    if (n == 0) return values;
    const DeviceMemory status(sizeof(int));
    const auto clear_status = [&] {
      check(cudaMemsetAsync(status.data(), 0, sizeof(int), stream_));
      return reinterpret_cast<int*>(status.data());
    };
    find_not_finite(view(symmetric), clear_status(), stream_);
    if (read_int(status) != 0) fail_not_finite();
    {
      const Handles& h = handles();
      const Workspace need = eigen_workspace(n, symmetric.stride);
      const DeviceMemory numbers(bytes_of(n, 1));
      const DeviceMemory work(need.device_bytes);
      std::vector<std::byte> host(need.host_bytes);
      check_solver(h.all.syevd(h.solver, h.params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER,
                               n, CUDA_R_64F, symmetric.data, symmetric.stride, CUDA_R_64F,
                               numbers.data(), CUDA_R_64F, work.data(), need.device_bytes,
                               host.data(), need.host_bytes, clear_status()),
                   "find eigenvectors");
      check(cudaMemcpyAsync(values.data(), numbers.data(), numbers.size(), cudaMemcpyDeviceToHost,
                            stream_));
      if (const int found = read_int(status); found != 0) fail_not_converged(n, found);
    }
    // Each row is a vector now, the smallest value's first.
    DenseMatrix vectors = make(n, n);
    turn_backwards(view(symmetric), view(vectors), stream_);
    symmetric = std::move(vectors);
    std::ranges::reverse(values);
    return values;
  }
  [[nodiscard]] std::size_t eigen_bytes(std::int64_t n) override {
    // The workspace goes before there are vectors in memory of their own.
    return std::max(eigen_workspace(n, n).device_bytes + bytes_of(n, 1), bytes_of(n, n));
  }

 private:
  const Handles& handles() {
    if (!handles_) handles_ = std::make_unique<Handles>(stream_);
    return *handles_;
  }

  Workspace eigen_workspace(std::int64_t n, std::int64_t stride) {
    const Handles& h = handles();
    Workspace need;
    check_solver(
        h.all.syevd_buffer_size(h.solver, h.params, CUSOLVER_EIG_MODE_VECTOR,
                                CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, nullptr, stride, CUDA_R_64F,
                                nullptr, CUDA_R_64F, &need.device_bytes, &need.host_bytes),
        "plan for eigenvectors");
    return need;
  }

  /// out = product + beta out, as out' = y' x'.
  void product(const DenseMatrix& x, const DenseMatrix& y, Transposed transposed, double beta,
               const DenseMatrix& out) override {
    const ProductShape shape = product_shape(x, y, transposed);
    if (shape.rows == 0 || shape.cols == 0 || shape.depth == 0) return;
    const Handles& h = handles();
    const double one = 1;
    check_blas(
        h.all.cublas_dgemm(h.blas, transposed == Transposed::right ? CUBLAS_OP_T : CUBLAS_OP_N,
                           transposed == Transposed::left ? CUBLAS_OP_T : CUBLAS_OP_N, shape.cols,
                           shape.rows, shape.depth, &one, y.data, y.stride, x.data, x.stride, &beta,
                           out.data, out.stride),
        "multiply");
  }

  static std::size_t diagonal_pitch(const DenseMatrix& m) {
    return static_cast<std::size_t>(m.stride + 1) * sizeof(double);
  }

  [[nodiscard]] int read_int(const DeviceMemory& from) {
    int number = 0;
    check(cudaMemcpyAsync(&number, from.data(), sizeof number, cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
    return number;
  }

  cudaStream_t stream_;
  std::unique_ptr<Handles> handles_;  // of the first call that needs them
};

}  // namespace

std::unique_ptr<DenseOps> make_dense_ops(cudaStream_t stream) {
  return std::make_unique<CudaDenseOps>(stream);
}

}  // namespace sedpa::cuda
