# `cmake --install` and `find_package(sedpa)`: the archive with all modules, the public headers in
# their folders, the program, and a package file that finds again what the archive needs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

target_include_directories(sedpa INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(TARGETS sedpa EXPORT sedpa ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET sedpa_cli)
  install(TARGETS sedpa_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# What stands behind the seam stays inside, but for the backends' own doors; so does the JSON
# library, which no public header shows.
install(DIRECTORY sedpa DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h"
  PATTERN "sedpa/backend/cpu/*" EXCLUDE
  PATTERN "sedpa/backend/cuda/*" EXCLUDE
  PATTERN "sedpa/format/json.h" EXCLUDE
  PATTERN "sedpa/tokenizer/json_field.h" EXCLUDE
  PATTERN "sedpa/tokenizer/tokenizer_document.h" EXCLUDE
  PATTERN "sedpa/compress/parts.h" EXCLUDE)
install(FILES sedpa/backend/cpu/cpu_ops.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sedpa/backend/cpu)
if(SEDPA_CUDA)
  install(FILES sedpa/backend/cuda/cuda_ops.h
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sedpa/backend/cuda)
endif()
install(DIRECTORY attn_patterns DESTINATION ${CMAKE_INSTALL_DATADIR}/sedpa)
install(FILES data/war_and_peace.txt data/README.md DESTINATION ${CMAKE_INSTALL_DATADIR}/sedpa/data)
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/sedpa)
install(EXPORT sedpa NAMESPACE sedpa:: FILE sedpa-targets.cmake DESTINATION ${package_dir})
configure_package_config_file(cmake/sedpa-config.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/sedpa-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/sedpa-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sedpa-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/sedpa-config-version.cmake DESTINATION ${package_dir})
