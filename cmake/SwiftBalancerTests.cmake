# What test programs are built with, and the two limits on time. A limit detects a hang, nothing else: no test is expected to come
# near it. On the slowest machine known (Xeon, 2.5 GHz) every test takes at most 60 s while nothing else runs, under sanitizers too;
# the limit is ten times that, for machines that are busy. scripts/lint.sh refuses a TIMEOUT anywhere else.
set(SWIFTBALANCER_TEST_LIMIT_SECONDS 600)
# One wait inside a test, for a peer or a process: shorter, so that a hang is told as what was waited for and not as a killed test.
set(SWIFTBALANCER_WAIT_LIMIT_SECONDS 120)

# ctest reads this file from the build folder, and takes its limit for every test that has none of its own.
file(WRITE ${PROJECT_BINARY_DIR}/DartConfiguration.tcl "TimeOut: ${SWIFTBALANCER_TEST_LIMIT_SECONDS}\n")

# The same for all test programs: they share one precompiled header.
function(swiftbalancer_test_definitions target)
  target_compile_definitions(${target} PRIVATE SWIFTBALANCER_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                               SWIFTBALANCER_BINARY_DIR="${PROJECT_BINARY_DIR}"
                                               SWIFTBALANCER_WAIT_LIMIT_SECONDS=${SWIFTBALANCER_WAIT_LIMIT_SECONDS})
endfunction()

# The test frameworks' headers, compiled once for all test programs: they take longer than the tests.
function(swiftbalancer_test_headers)
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cpp "int main() {}\n")
  add_executable(test_headers ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cpp)
  target_link_libraries(test_headers PRIVATE GTest::gmock)
  swiftbalancer_test_definitions(test_headers)
  target_precompile_headers(test_headers PRIVATE <gmock/gmock.h> <gtest/gtest.h> <rapidcheck.h> <rapidcheck/gtest.h>)
  swiftbalancer_compile_options(test_headers)
endfunction()

# swiftbalancer_test(NAME SOURCES ... LIBRARIES target ... [LABELS ...]): one GoogleTest program.
function(swiftbalancer_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "swiftbalancer_test(${name}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} GTest::gmock GTest::gtest_main rapidcheck)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  swiftbalancer_test_definitions(${name})
  swiftbalancer_compile_options(${name})
  target_precompile_headers(${name} REUSE_FROM test_headers)
  add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}")
endfunction()

# swiftbalancer_python_test(NAME SCRIPT [ARGUMENT ...] [LABELS ...]): a script of the calling folder, by the Python of
# `scripts/setup.sh --tests`.
function(swiftbalancer_python_test name script)
  cmake_parse_arguments(arg "" "" "LABELS" ${ARGN})
  add_test(NAME ${name} COMMAND ${PROJECT_SOURCE_DIR}/.venv/bin/python ${CMAKE_CURRENT_SOURCE_DIR}/${script}
                                ${arg_UNPARSED_ARGUMENTS})
  set_tests_properties(${name} PROPERTIES
    LABELS "${arg_LABELS}" ENVIRONMENT SWIFTBALANCER_WAIT_LIMIT_SECONDS=${SWIFTBALANCER_WAIT_LIMIT_SECONDS})
endfunction()
