#pragma once
// cuBLAS and cuSOLVER for the dense algebra of compression. They are opened when it is first asked
// for, not when the program starts: with what cuSOLVER needs they are four more libraries of 450
// MB, which every start of the program would map and relocate, and machines that only run models
// need not have them.
#include <cublas_v2.h>
#include <cusolverDn.h>

namespace sedpa::cuda {

/// Their functions, under the names of their headers.
struct DenseLibraries {
  decltype(&::cublasCreate) cublas_create = nullptr;
  decltype(&::cublasDestroy) cublas_destroy = nullptr;
  decltype(&::cublasSetStream) cublas_set_stream = nullptr;
  decltype(&::cublasDgemm_64) cublas_dgemm = nullptr;
  decltype(&::cublasDtrsm_64) cublas_dtrsm = nullptr;
  decltype(&::cusolverDnCreate) solver_create = nullptr;
  decltype(&::cusolverDnDestroy) solver_destroy = nullptr;
  decltype(&::cusolverDnSetStream) solver_set_stream = nullptr;
  decltype(&::cusolverDnCreateParams) solver_create_params = nullptr;
  decltype(&::cusolverDnDestroyParams) solver_destroy_params = nullptr;
  decltype(&::cusolverDnXsyevd_bufferSize) syevd_buffer_size = nullptr;
  decltype(&::cusolverDnXsyevd) syevd = nullptr;
  decltype(&::cusolverDnXpotrf_bufferSize) potrf_buffer_size = nullptr;
  decltype(&::cusolverDnXpotrf) potrf = nullptr;
};

/// Opens them once in a process; they stay open. Throws Error, naming the library and what the
/// system says, when one is not there.
[[nodiscard]] const DenseLibraries& dense_libraries();

}  // namespace sedpa::cuda
