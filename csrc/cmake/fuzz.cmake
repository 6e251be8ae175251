# SPDX-License-Identifier: Apache-2.0
#
# Targets of libFuzzer: each tests/fuzz_*.c is one program, linked with core and host, under AddressSanitizer and UndefinedBehaviorSanitizer.
if(NOT CMAKE_C_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "libFuzzer is clang's: -DCMAKE_C_COMPILER=clang")
endif()
file(GLOB fuzz_files CONFIGURE_DEPENDS tests/fuzz_*.c)
set(fuzz_flags ${strict} -O1 -g -DWHERRY_TEST=1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
add_library(wherry_fuzzed STATIC ${core} ${host} tests/decode_target.c tests/planmaker.c ${build_id} ${program_bytes})
add_dependencies(wherry_fuzzed program)
target_compile_options(wherry_fuzzed PRIVATE $<$<COMPILE_LANGUAGE:C>:${fuzz_flags}> $<$<COMPILE_LANGUAGE:C>:-fsanitize=fuzzer-no-link>)
foreach(file IN LISTS fuzz_files)
  get_filename_component(name ${file} NAME_WE)
  add_executable(${name} ${file})
  target_compile_options(${name} PRIVATE ${fuzz_flags} -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer,address,undefined)
  target_link_libraries(${name} PRIVATE wherry_fuzzed)
endforeach()
target_link_options(fuzz_pattern PRIVATE -Wl,--wrap=host_facts_key,--wrap=host_compare_namespaces) # hashes a dozen files of /proc: a millisecond each time
