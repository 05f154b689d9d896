# Kernel sources are compiled once for each instruction set that the compiler knows: one module
# each, the same sources, other flags, another namespace (see simd.h).
#   sedpa_cpu_kernels(SOURCES a.cc b.cc)
# defines the modules cpu_kernels_baseline, cpu_kernels_avx2 and cpu_kernels_avx512 and puts the
# names of those that exist in SEDPA_CPU_KERNELS.
include(CheckCXXCompilerFlag)

set(SEDPA_AVX2_FLAGS -mavx2 -mfma -mf16c)
set(SEDPA_AVX512_FLAGS ${SEDPA_AVX2_FLAGS} -mavx512f -mavx512bw -mavx512dq -mavx512vl
  -mavx512vnni -mavx512bf16 -mprefer-vector-width=512)

function(sedpa_cpu_kernels)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  set(names baseline)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    check_cxx_compiler_flag("-mavx2 -mfma -mf16c" SEDPA_COMPILER_HAS_AVX2)
    check_cxx_compiler_flag("-mavx512f -mavx512vnni -mavx512bf16" SEDPA_COMPILER_HAS_AVX512)
    if(SEDPA_COMPILER_HAS_AVX2)
      list(APPEND names avx2)
    endif()
    if(SEDPA_COMPILER_HAS_AVX512)
      list(APPEND names avx512)
    endif()
  endif()

  # A source's own options come behind those that switch sanitizers on. Of their checks the costliest
  # to compile: whether the arithmetic of an address wraps; what is read and written there is checked
  # all the same. And nothing is found in code that this machine does not have the instructions for.
  if(SEDPA_SANITIZE)
    set(addresses "$<$<CXX_COMPILER_ID:Clang>:-fno-sanitize=pointer-overflow>")
    set(idle "$<$<BOOL:$<TARGET_PROPERTY:SEDPA_NEVER_RUNS>>:-fno-sanitize=all;-O0;-g0>")
    set_source_files_properties(${ARG_SOURCES} PROPERTIES COMPILE_OPTIONS "${addresses};${idle}")
  endif()

  if(SEDPA_SANITIZE AND EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo cpu_flags REGEX "^flags" LIMIT_COUNT 1)
  endif()
  set(cpu_flag_avx2 avx2)
  set(cpu_flag_avx512 avx512_bf16)

  set(levels_baseline 0)
  set(levels_avx2 1)
  set(levels_avx512 2)
  set(flags_baseline "")
  set(flags_avx2 ${SEDPA_AVX2_FLAGS})
  set(flags_avx512 ${SEDPA_AVX512_FLAGS})
  set(modules "")
  foreach(isa IN LISTS names)
    set(never_runs OFF)
    if(cpu_flags AND cpu_flag_${isa} AND NOT cpu_flags MATCHES " ${cpu_flag_${isa}}( |$)")
      set(never_runs ON)
    endif()
    sedpa_module(cpu_kernels_${isa} SOURCES ${ARG_SOURCES} USES core)
    # Long to compile and with few headers: each alone, for as many processors as there are.
    set_target_properties(sedpa_cpu_kernels_${isa} PROPERTIES
      UNITY_BUILD OFF SEDPA_NEVER_RUNS ${never_runs})
    target_compile_definitions(sedpa_cpu_kernels_${isa} PRIVATE
      SEDPA_ISA=${isa} SEDPA_ISA_LEVEL=${levels_${isa}})
    target_compile_options(sedpa_cpu_kernels_${isa} PRIVATE ${flags_${isa}}
      # Vectors would live in memory without any optimisation; more of it is lost under sanitizers,
      # whose checks then cost minutes of compiling.
      $<$<CONFIG:Debug>:-O1>
      # GCC 12 takes its own intrinsics' undefined operands for mistakes of ours (GCC bug 105593).
      $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized;-Wno-maybe-uninitialized>)
    list(APPEND modules cpu_kernels_${isa})
  endforeach()
  set(SEDPA_CPU_KERNELS ${modules} PARENT_SCOPE)
endfunction()
