# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
#
# intflash_add_port(<name> ARCH x86_64|aarch64|any SOURCES ... [FLAGS ...] [ROWS_OF <port>])
# compiles one port, the kernels of one instruction set, as an object library that exports
# intflash::internal::kernels_<name> alone, and row_kernels_<name> where it has not those of another
# port, which is to be there wherever it is. A port of another architecture is left out; so is one that this
# compiler cannot build, or a sanitized one that this machine cannot run, and a message says so. Call
# it best port first: built_ports.inc keeps the order.
include(CheckCXXCompilerFlag)

# -fno-trapping-math lets loops with comparisons vectorize; it changes no result.
# -fno-lto: link-time optimisation would inline across the firewall. -fno-fast-math: undoes what a
# user's CXXFLAGS may say, since every port must give the same bits.
set(INTFLASH_PORT_OPTIONS
    -O3 -fno-lto -fno-exceptions -fno-rtti -fno-fast-math -fno-math-errno
    -fno-trapping-math -ffp-contract=off
    -Wall -Wextra -Werror=switch)
# Unrolled loops with a check at every access take minutes to optimise.
if(INTFLASH_SANITIZE)
  list(APPEND INTFLASH_PORT_OPTIONS -O1)
endif()
# Three checks of each address, in loops of products: where one would fail AddressSanitizer stops the
# access itself, and without them the scalar port is twice as fast.
if(INTFLASH_SANITIZE MATCHES "address,undefined")
  list(APPEND INTFLASH_PORT_OPTIONS -fno-sanitize=null,object-size,pointer-overflow)
endif()
# g++ 12 warns of its own AVX-512 headers, whose "undefined" vectors are uninitialized on purpose.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND INTFLASH_PORT_OPTIONS -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

function(intflash_add_port name)
  cmake_parse_arguments(PARSE_ARGV 1 port "" "ARCH;ROWS_OF" "FLAGS;SOURCES")

  string(REGEX REPLACE "^(AMD64|amd64)$" "x86_64" processor "${CMAKE_SYSTEM_PROCESSOR}")
  string(REGEX REPLACE "^(ARM64|arm64)$" "aarch64" processor "${processor}")
  if(NOT port_ARCH STREQUAL "any" AND NOT port_ARCH STREQUAL processor)
    return()
  endif()
  # Sanitized, the AMX port takes a minute to compile, and is there for this machine's tests alone.
  if(INTFLASH_SANITIZE AND port_ARCH STREQUAL "x86_64" AND EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo cpu_flags REGEX "^flags" LIMIT_COUNT 1)
    if(NOT "${cpu_flags} " MATCHES " ${name} ")
      message(STATUS "port ${name} is not built: sanitized, it needs a CPU that runs it")
      return()
    endif()
  endif()
  if(port_FLAGS)
    string(REPLACE ";" " " flags "${port_FLAGS}")
    check_cxx_compiler_flag("${flags}" INTFLASH_COMPILER_BUILDS_${name})
    if(NOT INTFLASH_COMPILER_BUILDS_${name})
      message(STATUS "port ${name} is not built: it needs a compiler with ${flags}")
      return()
    endif()
  endif()

  set(target intflash_port_${name})
  add_library(${target} OBJECT ${port_SOURCES})
  set_target_properties(${target} PROPERTIES
    POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden INTERPROCEDURAL_OPTIMIZATION OFF)
  target_compile_options(${target} PRIVATE ${INTFLASH_PORT_OPTIONS} ${port_FLAGS}
                                           ${INTFLASH_COVERAGE_OPTIONS})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  set_property(GLOBAL APPEND PROPERTY INTFLASH_PORT_OBJECTS $<TARGET_OBJECTS:${target}>)
  set_property(GLOBAL APPEND_STRING PROPERTY INTFLASH_PORT_LIST "INTFLASH_PORT(${name})\n")

  # Unoptimised and sanitized objects refer to run-time libraries; the rule is for what ships.
  if(INTFLASH_BUILD_TESTS AND CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT INTFLASH_SANITIZE
     AND NOT APPLE)
    set(rows_of ${name})
    if(port_ROWS_OF)
      set(rows_of ${port_ROWS_OF})
    endif()
    foreach(table IN ITEMS kernels_${name} row_kernels_${rows_of})
      string(LENGTH ${table} length)
      list(APPEND tables _ZN8intflash8internal${length}${table}E)
    endforeach()
    add_test(NAME firewall.${name}
             COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DREADELF=${CMAKE_READELF}
                     "-DOBJECTS=$<TARGET_OBJECTS:${target}>" "-DTABLES=${tables}"
                     -P ${PROJECT_SOURCE_DIR}/cmake/check_isa_object.cmake)
    set_tests_properties(firewall.${name} PROPERTIES LABELS quick)
  endif()
endfunction()

# Writes the list of built ports for dispatch: one INTFLASH_PORT(name) a line, best first.
function(intflash_write_port_list path)
  get_property(ports GLOBAL PROPERTY INTFLASH_PORT_LIST)
  file(CONFIGURE OUTPUT ${path} CONTENT "${ports}" @ONLY)
endfunction()
