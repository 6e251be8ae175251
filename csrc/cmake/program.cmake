# SPDX-License-Identifier: Apache-2.0
#
# The static program. It has a compiler of its own (musl-gcc), so its commands are written out here. -static and not -static-pie:
# Debian's musl-gcc answers the latter with a dynamic program, without a word.
find_program(MUSL_GCC musl-gcc)
if(WHERRY_LIBC STREQUAL "auto")
  if(MUSL_GCC)
    set(libc musl)
  else()
    set(libc glibc)
    message(WARNING "no musl-gcc: the program becomes a static glibc program, which is bigger and slower to start")
  endif()
else()
  set(libc ${WHERRY_LIBC})
endif()
if(libc STREQUAL "musl")
  # musl-gcc sees no kernel headers; -idirafter, because -I would put glibc's headers before musl's
  set(program_compiler ${MUSL_GCC} -idirafter /usr/include -idirafter /usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu)
  set(program_limit ${WHERRY_PROGRAM_LIMIT})
else()
  set(program_compiler ${CMAKE_C_COMPILER})
  set(program_limit 1500000)
endif()
set(program_flags ${strict} ${hardened} -Oz -g0 -fno-pie -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables
  -flto=1 -flto-partition=one # takes 5 % off the size
  # passes that make code bigger in spite of -Oz: 3 KB
  -fno-optimize-sibling-calls -fno-partial-inlining -fno-thread-jumps -fno-tree-tail-merge -fno-tree-dominator-opts -fno-move-loop-invariants
  -DWHERRY_PROGRAM=1 -DWHERRY_LIBC="${libc}")
# No relro: nothing is relocated in a static program at a fixed address, and musl would protect nothing; it only costs a page of padding. With the
# small common page size the data follow the text in the file without any.
set(program_link_flags -static -no-pie -s -Wl,--gc-sections -Wl,-z,noexecstack -Wl,-z,norelro -Wl,-z,common-page-size=64 -Wl,-z,noseparate-code
  -Wl,--build-id=none)

set(program_objects "")
foreach(source IN LISTS core host program)
  file(RELATIVE_PATH name ${CMAKE_CURRENT_SOURCE_DIR} ${source})
  string(REPLACE "/" "_" name ${name})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/program/${name}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${program_compiler} ${program_flags} -MMD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d COMMENT "Compiling ${name} for the static program" VERBATIM)
  list(APPEND program_objects ${object})
endforeach()
if(libc STREQUAL "musl")
  set(object ${CMAKE_CURRENT_BINARY_DIR}/program/libc_small.c.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${program_compiler} ${program_flags} -fno-lto -ffreestanding -c ${CMAKE_CURRENT_SOURCE_DIR}/libc/small.c -o ${object}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/libc/small.c COMMENT "Compiling libc_small.c for the static programs" VERBATIM)
  list(APPEND program_objects ${object})
endif()
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/program)

set(program_file ${CMAKE_CURRENT_BINARY_DIR}/wherry)
add_custom_command(OUTPUT ${program_file}
  COMMAND ${program_compiler} ${program_flags} -c ${build_id} -o program/build_id.o
  COMMAND ${program_compiler} ${program_flags} ${program_link_flags}
    ${program_objects} program/build_id.o -o ${program_file}.new
  COMMAND ${CMAKE_COMMAND} -DFILE=${program_file}.new -DLIMIT=${program_limit} -P ${CMAKE_CURRENT_LIST_DIR}/check_program.cmake
  COMMAND ${CMAKE_COMMAND} -E rename ${program_file}.new ${program_file}
  DEPENDS ${program_objects} ${build_id} ${CMAKE_CURRENT_LIST_DIR}/check_program.cmake
  COMMENT "Linking the static program (${libc})" VERBATIM)
add_custom_target(program ALL DEPENDS ${program_file})

# Its bytes, as wherry_program_start .. wherry_program_end, for whoever starts containers from inside Python.
set(program_bytes ${CMAKE_CURRENT_BINARY_DIR}/program_bytes.S)
file(CONFIGURE OUTPUT program_bytes.S CONTENT [[
	.section .rodata
	.balign 16
	.globl wherry_program_start, wherry_program_end
wherry_program_start:
	.incbin "@program_file@"
wherry_program_end:
	.byte 0
	.section .note.GNU-stack, "", %progbits
]] @ONLY)
set_source_files_properties(${program_bytes} PROPERTIES OBJECT_DEPENDS ${program_file})

if(SKBUILD)
  install(PROGRAMS ${program_file} DESTINATION ${SKBUILD_SCRIPTS_DIR})
  install(PROGRAMS ${CMAKE_CURRENT_SOURCE_DIR}/../runtime/scripts/wherry-python DESTINATION ${SKBUILD_SCRIPTS_DIR})
endif()
