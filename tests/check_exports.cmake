# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
#
# Fails unless the shared library exports the functions that the headers declare, and nothing else.
#   cmake -DNM=... -DLIBRARY=... -DHEADERS=a.h;b.h -P check_exports.cmake
cmake_policy(VERSION 3.22)

set(header "")
foreach(path IN LISTS HEADERS)
  file(READ ${path} text)
  string(APPEND header "${text}")
endforeach()
string(REGEX MATCHALL "INTFLASH_API[^(;]*[ *](intflash_[a-z0-9_]+)\\(" declarations "${header}")
set(declared "")
foreach(declaration IN LISTS declarations)
  string(REGEX REPLACE ".*[ *](intflash_[a-z0-9_]+)\\($" "\\1" name "${declaration}")
  list(APPEND declared ${name})
endforeach()

execute_process(COMMAND ${NM} -D --defined-only -P ${LIBRARY} OUTPUT_VARIABLE symbols
                COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" symbols "${symbols}")
set(exported "")
foreach(symbol IN LISTS symbols)
  if(symbol MATCHES "^([^ @]+)[^ ]* ([A-Za-z])( |$)" AND NOT CMAKE_MATCH_2 STREQUAL "A")
    list(APPEND exported ${CMAKE_MATCH_1})
  endif()
endforeach()

list(SORT declared)
list(SORT exported)
if(declared STREQUAL "" OR NOT declared STREQUAL exported)
  set(missing ${declared})
  list(REMOVE_ITEM missing ${exported})
  set(extra ${exported})
  list(REMOVE_ITEM extra ${declared})
  message(FATAL_ERROR "${LIBRARY}: not exported: '${missing}'; not declared: '${extra}'")
endif()
