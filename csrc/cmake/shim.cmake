# SPDX-License-Identifier: Apache-2.0
#
# containerd-shim-wherry-v2: a static program of its own, from core, host and shim, with the program's flags. Python is beside it.
set(shim_limit 61440)
if(NOT libc STREQUAL "musl")
  set(shim_limit 1500000)
endif()
set(shim_objects "")
foreach(source IN LISTS shim)
  file(RELATIVE_PATH name ${CMAKE_CURRENT_SOURCE_DIR} ${source})
  string(REPLACE "/" "_" name ${name})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/program/${name}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${program_compiler} ${program_flags} -MMD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d COMMENT "Compiling ${name} for the shim" VERBATIM)
  list(APPEND shim_objects ${object})
endforeach()

set(shim_file ${CMAKE_CURRENT_BINARY_DIR}/containerd-shim-wherry-v2)
add_custom_command(OUTPUT ${shim_file}
  COMMAND ${program_compiler} ${program_flags} -c ${build_id} -o program/shim_build_id.o
  COMMAND ${program_compiler} ${program_flags} ${program_link_flags} ${shim_objects} ${monitor_shared} program/shim_build_id.o -o ${shim_file}.new
  COMMAND ${CMAKE_COMMAND} -DFILE=${shim_file}.new -DLIMIT=${shim_limit} -P ${CMAKE_CURRENT_LIST_DIR}/check_program.cmake
  COMMAND ${CMAKE_COMMAND} -E rename ${shim_file}.new ${shim_file}
  DEPENDS ${shim_objects} ${monitor_shared} ${build_id} ${CMAKE_CURRENT_LIST_DIR}/check_program.cmake
  COMMENT "Linking the shim (${libc})" VERBATIM)
add_custom_target(shim_program ALL DEPENDS ${shim_file})
if(SKBUILD)
  install(PROGRAMS ${shim_file} DESTINATION ${SKBUILD_SCRIPTS_DIR})
  install(PROGRAMS ${CMAKE_CURRENT_SOURCE_DIR}/../runtime/scripts/wherry-python DESTINATION ${SKBUILD_SCRIPTS_DIR} RENAME containerd-shim-wherry-python)
endif()
