# The CUDA compiler and libraries, and code for each of SEDPA_CUDA_ARCHITECTURES: "90a" has what only
# Hopper can do, "80" runs on Ampere and what came after it.
find_package(CUDAToolkit 12.3 REQUIRED)
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
# CMake 3.25 does not know this flag of nvcc 12 and later.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
# By the files that a source includes: what nvcc's preprocessor gives is one architecture's alone,
# and a change that another one sees would go unnoticed.
if(CCACHE_PROGRAM AND PROJECT_IS_TOP_LEVEL)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 ${ccache_launcher})
endif()
set(SEDPA_CUDA_CODE "")
foreach(architecture IN LISTS SEDPA_CUDA_ARCHITECTURES)
  list(APPEND SEDPA_CUDA_CODE "-gencode=arch=compute_${architecture},code=sm_${architecture}")
endforeach()
