# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs the library, its header, and what find_package and pkg-config read.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS intflash EXPORT intflash-targets
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/intflash DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/intflash)
install(EXPORT intflash-targets NAMESPACE intflash:: DESTINATION ${package_dir})
configure_package_config_file(cmake/intflash-config.cmake.in intflash-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(intflash-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/intflash-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/intflash-config-version.cmake
        DESTINATION ${package_dir})

set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH prefix_from_pkgconfig_dir /${pkgconfig_dir} /)
set(pkgconfig_static_libs -lstdc++ -lm ${CMAKE_THREAD_LIBS_INIT})
if(INTFLASH_WITH_OPENMP)
  list(APPEND pkgconfig_static_libs ${OpenMP_CXX_FLAGS})
endif()
if(intflash_has_hwloc)
  list(APPEND pkgconfig_static_libs -lhwloc)
endif()
list(JOIN pkgconfig_static_libs " " pkgconfig_static_libs)
configure_file(cmake/intflash.pc.in intflash.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/intflash.pc DESTINATION ${pkgconfig_dir})
