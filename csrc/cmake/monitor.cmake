# SPDX-License-Identifier: Apache-2.0
#
# The monitor of the shim: a static program of its own, from the same sources and with the same flags as the program. It may use any part of
# core and host; the linker takes what it needs.
set(monitor_limit 106496)
if(NOT libc STREQUAL "musl")
  set(monitor_limit 1500000)
endif()
set(monitor_objects "")
foreach(source IN LISTS monitor)
  file(RELATIVE_PATH name ${CMAKE_CURRENT_SOURCE_DIR} ${source})
  string(REPLACE "/" "_" name ${name})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/program/${name}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${program_compiler} ${program_flags} -MMD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d COMMENT "Compiling ${name} for the monitor" VERBATIM)
  list(APPEND monitor_objects ${object})
endforeach()
set(monitor_shared ${program_objects})
list(FILTER monitor_shared EXCLUDE REGEX "/program_[^/]*$")

set(monitor_file ${CMAKE_CURRENT_BINARY_DIR}/wherry-monitor)
add_custom_command(OUTPUT ${monitor_file}
  COMMAND ${program_compiler} ${program_flags} -c ${build_id} -o program/monitor_build_id.o
  COMMAND ${program_compiler} ${program_flags} ${program_link_flags} ${monitor_objects} ${monitor_shared} program/monitor_build_id.o -o ${monitor_file}.new
  COMMAND ${CMAKE_COMMAND} -DFILE=${monitor_file}.new -DLIMIT=${monitor_limit} -P ${CMAKE_CURRENT_LIST_DIR}/check_program.cmake
  COMMAND ${CMAKE_COMMAND} -E rename ${monitor_file}.new ${monitor_file}
  DEPENDS ${monitor_objects} ${monitor_shared} ${build_id} ${CMAKE_CURRENT_LIST_DIR}/check_program.cmake
  COMMENT "Linking the monitor (${libc})" VERBATIM)
add_custom_target(monitor_program ALL DEPENDS ${monitor_file})
if(SKBUILD)
  install(PROGRAMS ${monitor_file} DESTINATION wherry)
endif()
