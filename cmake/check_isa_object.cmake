# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
#
# The firewall: fails unless the objects of a port export their kernel table and nothing else. Of
# the table of row kernels they may export or take in one, the second of TABLES.
#   cmake -DNM=... -DREADELF=... -DOBJECTS=a.o;b.o "-DTABLES=<two mangled names>"
#         -P check_isa_object.cmake
# A weak symbol would let the linker keep this port's copy of a function that baseline code calls;
# a static constructor would run the port's instructions before anyone looked at the CPU.
cmake_policy(VERSION 3.22)

# What compilers may call of their own accord, and fmaf for CPUs without a fused multiply-add.
set(allowed_undefined
    fmaf memcpy memmove memset _GLOBAL_OFFSET_TABLE_ __stack_chk_fail)

execute_process(COMMAND ${NM} -P ${OBJECTS} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${READELF} -S -W ${OBJECTS} OUTPUT_VARIABLE sections
                COMMAND_ERROR_IS_FATAL ANY)

set(faults "")
set(exported "")
string(REPLACE "\n" ";" symbols "${symbols}")
foreach(symbol IN LISTS symbols)
  if(NOT symbol MATCHES "^([^ ]+) ([A-Za-z])( |$)")
    continue()
  endif()
  set(name ${CMAKE_MATCH_1})
  set(kind ${CMAKE_MATCH_2})
  if(kind MATCHES "[WwVvu]")
    list(APPEND faults "weak symbol ${name}")
  elseif(kind STREQUAL "U")
    if(NOT name IN_LIST allowed_undefined AND NOT name IN_LIST TABLES)
      list(APPEND faults "call out to ${name}")
    endif()
  elseif(kind MATCHES "[A-Z]")
    list(APPEND exported ${name})
  endif()
endforeach()
list(GET TABLES 0 table)
list(GET TABLES 1 rows)
list(REMOVE_ITEM exported ${rows})
if(NOT exported STREQUAL table)
  list(APPEND faults "exports '${exported}', expected '${table}' alone")
endif()
if(sections MATCHES "\\.(init_array|ctors)")
  list(APPEND faults "static constructor (${CMAKE_MATCH_0})")
endif()

if(faults)
  list(JOIN faults "\n  " faults)
  message(FATAL_ERROR "${OBJECTS}:\n  ${faults}")
endif()
