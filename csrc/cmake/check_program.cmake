# SPDX-License-Identifier: Apache-2.0
#
# What is promised of the static program: it is static, and it is small.
file(SIZE ${FILE} size)
if(size GREATER LIMIT)
  file(REMOVE ${FILE})
  message(FATAL_ERROR "the static program has ${size} bytes, more than the promised ${LIMIT}")
endif()
file(READ ${FILE} head LIMIT 65536 HEX)
string(SUBSTRING "${head}" 32 4 type)
string(FIND "${head}" "6c642d6d75736c" musl_loader) # "ld-musl"
string(FIND "${head}" "6c642d6c696e7578" glibc_loader) # "ld-linux"
if(NOT type STREQUAL "0200" OR NOT musl_loader EQUAL -1 OR NOT glibc_loader EQUAL -1)
  file(REMOVE ${FILE})
  message(FATAL_ERROR "the program is not a static executable at a fixed address (ELF type ${type})")
endif()
message(STATUS "static program: ${size} bytes of ${LIMIT}")
