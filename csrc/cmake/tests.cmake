# SPDX-License-Identifier: Apache-2.0
#
# C tests: each tests/test_*.c is one program, linked with core and host; other files of the folder are shared helpers.
# Exit status 77 is a skip; what a test prints then says what is missing.
file(GLOB test_files CONFIGURE_DEPENDS tests/test_*.c)
file(GLOB test_helpers CONFIGURE_DEPENDS tests/*.c)
list(FILTER test_helpers EXCLUDE REGEX "/(test|fuzz)_[^/]*$")

set(test_flags ${strict} -O1 -g -DWHERRY_TEST=1)
if(WHERRY_SANITIZE)
  list(APPEND test_flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()
add_library(wherry_tested STATIC ${core} ${host} ${test_helpers} ${build_id} ${program_bytes})
add_dependencies(wherry_tested program)
target_compile_options(wherry_tested PRIVATE $<$<COMPILE_LANGUAGE:C>:${test_flags}>)

foreach(file IN LISTS test_files)
  get_filename_component(name ${file} NAME_WE)
  add_executable(${name} ${file})
  target_compile_options(${name} PRIVATE ${test_flags})
  target_link_libraries(${name} PRIVATE wherry_tested)
  if(WHERRY_SANITIZE)
    target_link_options(${name} PRIVATE -fsanitize=address,undefined)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120)
  # leaks are not looked for: tests clone children that never return, and LeakSanitizer needs ptrace
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "ASAN_OPTIONS=detect_leaks=0:abort_on_error=1;UBSAN_OPTIONS=print_stacktrace=1")
endforeach()
