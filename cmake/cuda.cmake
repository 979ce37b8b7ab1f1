# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
#
# libintflash_cuda, which the library opens at run time: nothing else here needs CUDA. By nvcc itself:
# CMake 3.25 does not know that it has C++20.
if(INTFLASH_BUILD_CUDA STREQUAL "OFF")
  return()
endif()
find_program(INTFLASH_NVCC nvcc PATHS /usr/local/cuda/bin)
if(NOT INTFLASH_NVCC)
  message(STATUS "libintflash_cuda is not built: there is no nvcc")
  return()
endif()

# Code for Ampere and Ada, and what drivers make code of for later devices. Ada runs Ampere's: kernels
# that nobody waits for, and those beside the rules of masks, have no other.
set(ampere_code -gencode arch=compute_80,code=sm_80 -gencode arch=compute_80,code=compute_80)
set(all_code ${ampere_code})
foreach(kind IN ITEMS 86 89)
  list(APPEND all_code -gencode arch=compute_${kind},code=sm_${kind})
endforeach()
# The arithmetic's own terms: what is fused is written so, and nothing is flushed to zero. 177:
# functions of src/tile that devices do not call.
set(cuda_options -std=c++20 -O3 --threads 2 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true
                 -diag-suppress=177 -ccbin ${CMAKE_CXX_COMPILER}
                 -Xcompiler=-fPIC,-fvisibility=hidden)

set(cuda_library ${PROJECT_BINARY_DIR}/libintflash_cuda.so.${abi_version})
file(GLOB cuda_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cuda/*.h
                                         ${PROJECT_SOURCE_DIR}/src/tile/*.h)
set(cuda_objects)
foreach(source IN ITEMS attend attend_acts attend_padded attend_wide judge masks means queries table tokens)
  set(object ${PROJECT_BINARY_DIR}/cuda/${source}.o)
  set(cuda_code ${all_code})
  if(source MATCHES "^(attend_acts|attend_padded|attend_wide|judge|masks|means)$")
    set(cuda_code ${ampere_code})
  endif()
  # Kernels for heads of any size spill a few registers: scripts/cuda-code's flags are for the others.
  set(nvcc ${INTFLASH_NVCC})
  if(source STREQUAL "attend_padded")
    set(nvcc ${CMAKE_COMMAND} -E env --unset=NVCC_APPEND_FLAGS ${INTFLASH_NVCC})
  endif()
  add_custom_command(OUTPUT ${object} VERBATIM
    COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/cuda
    COMMAND ${nvcc} ${cuda_options} ${cuda_code} -I${PROJECT_SOURCE_DIR}/src
            -c ${PROJECT_SOURCE_DIR}/src/cuda/${source}.cu -o ${object}
    DEPENDS src/cuda/${source}.cu ${cuda_headers})
  list(APPEND cuda_objects ${object})
endforeach()
add_custom_command(OUTPUT ${cuda_library} VERBATIM
  COMMAND ${INTFLASH_NVCC} -shared -cudart static -ccbin ${CMAKE_CXX_COMPILER} ${cuda_objects}
          -o ${cuda_library}
  DEPENDS ${cuda_objects})
add_custom_target(intflash_cuda ALL DEPENDS ${cuda_library})

# bench/cuda/run's program, for whoever has a device.
if(BUILD_SHARED_LIBS)
  set(cuda_bench ${PROJECT_BINARY_DIR}/intflash-cuda-bench)
  add_custom_command(OUTPUT ${cuda_bench} VERBATIM
    COMMAND ${INTFLASH_NVCC} -std=c++20 -O2 ${ampere_code} -cudart static -ccbin ${CMAKE_CXX_COMPILER}
            -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/src
            ${PROJECT_SOURCE_DIR}/bench/cuda/bench.cpp ${PROJECT_SOURCE_DIR}/bench/cuda/limits.cu
            -L$<TARGET_FILE_DIR:intflash> -lintflash -Xlinker=-rpath=$<TARGET_FILE_DIR:intflash>
            -o ${cuda_bench}
    DEPENDS bench/cuda/bench.cpp bench/cuda/limits.cu bench/cuda/limits.h src/cuda/simt.h
            intflash ${cuda_library})
  add_custom_target(intflash_cuda_bench DEPENDS ${cuda_bench})
endif()

if(INTFLASH_INSTALL)
  include(GNUInstallDirs)
  install(PROGRAMS ${cuda_library} DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
