# One room of the house: a folder of sources compiled once, usable alone by its tests.
#   sedpa_module(format SOURCES gguf.cc ... USES core LIBRARIES fmt::fmt)
# USES names the folders below this one; a module sees no other module's link interface.
add_library(sedpa_flags INTERFACE)
target_compile_features(sedpa_flags INTERFACE cxx_std_20)
target_include_directories(sedpa_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
target_compile_options(sedpa_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor>)
if(CMAKE_UNITY_BUILD)
  # GCC takes a joined source for a header, whose types should have no parts of anonymous namespaces.
  target_compile_options(sedpa_flags INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-subobject-linkage>)
endif()
if(SEDPA_WERROR)
  # What GCC's flow analysis believes of the standard library's own code once that is inlined stays
  # a warning (GCC bug 105651 and its kin).
  target_compile_options(sedpa_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  foreach(flow array-bounds free-nonheap-object maybe-uninitialized restrict stringop-overflow
      stringop-overread)
    target_compile_options(sedpa_flags INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-error=${flow}>)
  endforeach()
endif()
if(SEDPA_SANITIZE)
  target_compile_options(sedpa_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SEDPA_SANITIZE}
    -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(sedpa_flags INTERFACE -fsanitize=${SEDPA_SANITIZE})
endif()

function(sedpa_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  add_library(sedpa_${name} OBJECT ${ARG_SOURCES})
  target_link_libraries(sedpa_${name} PUBLIC sedpa_flags ${ARG_LIBRARIES})
  foreach(used IN LISTS ARG_USES)
    target_link_libraries(sedpa_${name} PUBLIC sedpa_${used})
  endforeach()
  set_property(GLOBAL APPEND PROPERTY SEDPA_MODULES sedpa_${name})
  set_property(GLOBAL PROPERTY SEDPA_USES_${name} "${ARG_USES}")
endfunction()

# Every module below `names`, themselves included, in the variable `out`.
function(sedpa_closure out)
  set(todo ${ARGN})
  set(seen "")
  while(todo)
    list(POP_FRONT todo name)
    if(NOT name IN_LIST seen)
      list(APPEND seen ${name})
      get_property(used GLOBAL PROPERTY SEDPA_USES_${name})
      list(APPEND todo ${used})
    endif()
  endwhile()
  set(${out} ${seen} PARENT_SCOPE)
endfunction()

# Loops over millions of numbers: without any optimisation they take longer than it does.
function(sedpa_optimise_in_debug target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Debug>:-O1>)
endfunction()

# A GoogleTest program over some modules: sedpa_test(format SOURCES a_test.cc USES format)
function(sedpa_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  add_executable(${name}_tests ${ARG_SOURCES})
  sedpa_closure(modules ${ARG_USES})
  foreach(module IN LISTS modules)
    target_link_libraries(${name}_tests PRIVATE sedpa_${module})
    target_sources(${name}_tests PRIVATE $<TARGET_OBJECTS:sedpa_${module}>)
  endforeach()
  target_link_libraries(${name}_tests PRIVATE GTest::gtest GTest::gtest_main ${ARG_LIBRARIES})
  target_compile_definitions(${name}_tests PRIVATE SEDPA_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  # What a test computes beside the library is small: compiling it thoroughly takes longer.
  target_compile_options(${name}_tests PRIVATE $<$<CONFIG:Release>:-O1>)
  include(GoogleTest)
  gtest_discover_tests(${name}_tests DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
endfunction()
