# SPDX-License-Identifier: Apache-2.0
#
# wherry._native: cffi in API mode, limited API, so that one wheel serves CPython 3.11 and later.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
set(cdef ${CMAKE_CURRENT_BINARY_DIR}/cdef.h) # derived: plan.h stays the only definition of numbers and structs
set(derive ${CMAKE_CURRENT_SOURCE_DIR}/native/derive_cdef.py)
set(cdef_in ${CMAKE_CURRENT_SOURCE_DIR}/native/cdef.in)
set(prelude ${CMAKE_CURRENT_SOURCE_DIR}/native/native.c)
list(REMOVE_ITEM native ${prelude}) # it is the prelude of the generated source, no unit of its own

if(EXISTS ${cdef_in} AND EXISTS ${prelude})
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/_native.c)
  file(GLOB headers CONFIGURE_DEPENDS include/wherry/*.h native/*.h)
  add_custom_command(OUTPUT ${cdef}
    COMMAND ${Python_EXECUTABLE} ${derive} ${CMAKE_CURRENT_SOURCE_DIR}/include ${cdef_in} ${cdef}
    DEPENDS ${derive} ${cdef_in} ${headers}
    COMMENT "Deriving the cffi declarations from the headers" VERBATIM)
  add_custom_command(OUTPUT ${generated}
    COMMAND ${Python_EXECUTABLE} -m cffi.gen_src read-sources wherry._native ${cdef} ${prelude} ${generated}
    DEPENDS ${cdef} ${prelude} ${headers}
    COMMENT "Generating the cffi glue" VERBATIM)
  add_library(_native MODULE ${generated} ${native} ${core} ${host} ${build_id} ${program_bytes})
  add_dependencies(_native program)
  # cffi's own glue does not meet the strict list; the prelude is compiled with it, and once more by itself below
  set_source_files_properties(${generated} PROPERTIES COMPILE_OPTIONS "-Wno-shadow;-Wno-missing-prototypes;-Wno-unused-parameter;-Wno-sign-compare")
  target_compile_options(_native PRIVATE $<$<COMPILE_LANGUAGE:C>:${strict}> $<$<COMPILE_LANGUAGE:C>:${hardened}> -O2 -g0 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
  target_compile_definitions(_native PRIVATE Py_LIMITED_API=0x030b0000 WHERRY_PROGRAM_LIBC="${libc}")
  target_include_directories(_native PRIVATE ${Python_INCLUDE_DIRS})
  target_link_options(_native PRIVATE -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,--no-undefined-version -s)
  set_target_properties(_native PROPERTIES PREFIX "" SUFFIX ".abi3.so" C_VISIBILITY_PRESET hidden)
  install(TARGETS _native LIBRARY DESTINATION wherry)

  # Man pages and completions, from the tables of the verbs
  set(share ${CMAKE_CURRENT_BINARY_DIR}/share)
  file(GLOB verb_modules CONFIGURE_DEPENDS ../runtime/wherry/cli/*.py)
  add_custom_command(OUTPUT ${share}/made
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${share}
    COMMAND ${CMAKE_COMMAND} -E env PYTHONDONTWRITEBYTECODE=1 ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/share.py
      ${CMAKE_CURRENT_SOURCE_DIR}/../runtime $<TARGET_FILE:_native> "${SKBUILD_PROJECT_VERSION}" ${share}
    DEPENDS _native ${CMAKE_CURRENT_LIST_DIR}/share.py ${verb_modules} COMMENT "Printing man pages and completions" VERBATIM)
  add_custom_target(share ALL DEPENDS ${share}/made)
  install(DIRECTORY ${share}/ DESTINATION ${SKBUILD_DATA_DIR}/share PATTERN made EXCLUDE)
else()
  message(WARNING "csrc/native has no cdef.in and native.c: no extension is built")
endif()

# The hot modules in one file (runtime/wherry/image.py)
file(GLOB_RECURSE modules CONFIGURE_DEPENDS ../runtime/wherry/*.py)
set(hot_image ${CMAKE_CURRENT_BINARY_DIR}/hot.image)
set(make_image ${CMAKE_CURRENT_LIST_DIR}/hot_image.py)
add_custom_command(OUTPUT ${hot_image}
  COMMAND ${Python_EXECUTABLE} ${make_image} ${CMAKE_CURRENT_SOURCE_DIR}/../runtime ${hot_image}
  DEPENDS ${make_image} ${modules} COMMENT "Compiling the hot modules into one file" VERBATIM)
add_custom_target(image ALL DEPENDS ${hot_image})
install(FILES ${hot_image} DESTINATION wherry)
