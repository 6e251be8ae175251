# SPDX-License-Identifier: Apache-2.0
#
# The build id: a hash of every source that has a say in what a plan means, C and Python. The program and the extension carry the
# same one; a plan or record of another build is not executed.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ ${LIST} files)
  string(REGEX REPLACE "\n$" "" files "${files}")
  string(REPLACE "\n" ";" files "${files}")
  set(sums "")
  foreach(file IN LISTS files)
    file(SHA256 "${file}" sum)
    string(APPEND sums "${sum}\n")
  endforeach()
  string(SHA256 id "${sums}")
  string(SUBSTRING "${id}" 0 32 id)
  string(REGEX REPLACE "(..)" "0x\\1, " bytes "${id}")
  file(WRITE "${OUTPUT}" "#include \"wherry/host.h\"\nconst uint8_t wherry_build_id[WHERRY_BUILD_ID_SIZE] = { ${bytes}};\n")
  return()
endif()

set(build_id ${CMAKE_CURRENT_BINARY_DIR}/build_id.c)
list(JOIN hashed "\n" hashed_lines)
file(CONFIGURE OUTPUT hashed.txt CONTENT "${hashed_lines}\n" @ONLY)
add_custom_command(OUTPUT ${build_id}
  COMMAND ${CMAKE_COMMAND} -DLIST=${CMAKE_CURRENT_BINARY_DIR}/hashed.txt -DOUTPUT=${build_id} -P ${CMAKE_CURRENT_LIST_FILE}
  DEPENDS ${hashed} ${CMAKE_CURRENT_BINARY_DIR}/hashed.txt ${CMAKE_CURRENT_LIST_FILE}
  COMMENT "Hashing the sources into the build id" VERBATIM)
