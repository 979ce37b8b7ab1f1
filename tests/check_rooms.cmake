# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
#
# The rooms of src, each of which may include only those before it: no arrow goes up, and none round.
#   cmake -DROOT=... -P check_rooms.cmake
cmake_policy(VERSION 3.22)

set(rooms
    tile cuda core machine threads context pages calibration inputs states cache host engine backend cpu reference
    gpu api)
set(ports scalar avx2 avx512 amx neon)

foreach(room IN LISTS rooms ports)
  list(FIND rooms ${room} place)
  if(place GREATER_EQUAL 0)
    list(SUBLIST rooms 0 ${place} below)
  elseif(room STREQUAL "amx")
    set(below tile avx512)
  elseif(room STREQUAL "avx512")
    set(below tile avx2)
  else()
    set(below tile)
  endif()
  file(GLOB files ${ROOT}/src/${room}/*.h ${ROOT}/src/${room}/*.cpp ${ROOT}/src/${room}/*.cu)
  if(NOT files)
    message(SEND_ERROR "src/${room} is empty, or not there")
  endif()
  foreach(file IN LISTS files)
    file(STRINGS ${file} lines REGEX "^#include \"[a-z0-9_]+/")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^#include \"([a-z0-9_]+)/.*" "\\1" included "${line}")
      if(NOT included IN_LIST below AND NOT included STREQUAL room AND NOT included STREQUAL "intflash")
        message(SEND_ERROR "${file} must not include from src/${included}: ${line}")
      endif()
    endforeach()
  endforeach()
endforeach()

file(GLOB found LIST_DIRECTORIES true RELATIVE ${ROOT}/src ${ROOT}/src/*)
foreach(room IN LISTS found)
  if(NOT room IN_LIST rooms AND NOT room IN_LIST ports)
    message(SEND_ERROR "src/${room} has no place in the order of rooms")
  endif()
endforeach()
