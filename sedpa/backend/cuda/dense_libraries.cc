#include "sedpa/backend/cuda/dense_libraries.h"

#include <dlfcn.h>

#include <string>

#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

class Library {
 public:
  /// The version of the headers that this file was compiled with.
  Library(const char* name, int major) : name_(fmt::format("lib{}.so.{}", name, major)) {
    handle_ = ::dlopen(name_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return;
    const char* const why = ::dlerror();
    fail("compressing on a GPU needs cuBLAS and cuSOLVER: {}", why != nullptr ? why : name_);
  }

  template <class Function>
  void find(Function& function, const char* symbol) const {
    function = reinterpret_cast<Function>(::dlsym(handle_, symbol));
    if (function == nullptr) fail("{}: has no {}, expected another version", name_, symbol);
  }

 private:
  std::string name_;
  void* handle_ = nullptr;
};

DenseLibraries open_libraries() {
  DenseLibraries all;
  const Library blas("cublas", CUBLAS_VER_MAJOR);
  blas.find(all.cublas_create, "cublasCreate_v2");
  blas.find(all.cublas_destroy, "cublasDestroy_v2");
  blas.find(all.cublas_set_stream, "cublasSetStream_v2");
  blas.find(all.cublas_dgemm, "cublasDgemm_v2_64");
  blas.find(all.cublas_dtrsm, "cublasDtrsm_v2_64");
  const Library solver("cusolver", CUSOLVER_VER_MAJOR);
  solver.find(all.solver_create, "cusolverDnCreate");
  solver.find(all.solver_destroy, "cusolverDnDestroy");
  solver.find(all.solver_set_stream, "cusolverDnSetStream");
  solver.find(all.solver_create_params, "cusolverDnCreateParams");
  solver.find(all.solver_destroy_params, "cusolverDnDestroyParams");
  solver.find(all.syevd_buffer_size, "cusolverDnXsyevd_bufferSize");
  solver.find(all.syevd, "cusolverDnXsyevd");
  solver.find(all.potrf_buffer_size, "cusolverDnXpotrf_bufferSize");
  solver.find(all.potrf, "cusolverDnXpotrf");
  return all;
}

}  // namespace

const DenseLibraries& dense_libraries() {
  static const DenseLibraries libraries = open_libraries();
  return libraries;
}

}  // namespace sedpa::cuda
