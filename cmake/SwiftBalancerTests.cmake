# What test programs are built with, and the two limits on time. A limit detects a hang, nothing else: no test is expected to come
# near it. On the slowest machine known (Xeon, 2.5 GHz) every test takes at most 60 s while nothing else runs, under sanitizers too;
# the limit is ten times that, for machines that are busy. scripts/lint.sh refuses a TIMEOUT anywhere else.
set(SWIFTBALANCER_TEST_LIMIT_SECONDS 600)
# One wait inside a test, for a peer or a process: shorter, so that a hang is told as what was waited for and not as a killed test.
set(SWIFTBALANCER_WAIT_LIMIT_SECONDS 120)

# ctest reads this file from the build folder, and takes its limit for every test that has none of its own.
file(WRITE ${PROJECT_BINARY_DIR}/DartConfiguration.tcl "TimeOut: ${SWIFTBALANCER_TEST_LIMIT_SECONDS}\n")

# What the sources of all tests are compiled with: alike, because they share one precompiled header. They take longer to compile than
# to run, so they are optimised little in every build type.
function(swiftbalancer_test_options target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${target} PRIVATE SWIFTBALANCER_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                               SWIFTBALANCER_BINARY_DIR="${PROJECT_BINARY_DIR}"
                                               SWIFTBALANCER_WAIT_LIMIT_SECONDS=${SWIFTBALANCER_WAIT_LIMIT_SECONDS})
  swiftbalancer_compile_options(${target})
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1> ${swiftbalancer_unity_options})
endfunction()

# The twin of `target` links the twins of its libraries, and those that have none as they are.
function(swiftbalancer_link_twin target scope)
  set_target_properties(${target}_sanitized PROPERTIES LINKER_LANGUAGE CXX)
  foreach(library IN LISTS ARGN)
    if(TARGET ${library}_sanitized)
      string(APPEND library _sanitized)
    endif()
    target_link_libraries(${target}_sanitized ${scope} ${library})
  endforeach()
endfunction()

# swiftbalancer_sanitized_twin(NAME LIBRARIES target ...): the program NAME once more, as NAME_sanitized, from the same objects, but over
# the modules' twins under sanitizers: it is the product that they look at, and compiling tests a second time would take longer than
# all else. Built and run apart: `cmake --build --preset release --target sanitized_tests`, `ctest --preset sanitized`.
add_custom_target(sanitized_tests)
function(swiftbalancer_sanitized_twin name)
  cmake_parse_arguments(arg "" "" "LIBRARIES" ${ARGN})
  if(SWIFTBALANCER_SANITIZE OR SWIFTBALANCER_WITH_FUZZ)
    return()
  endif()
  add_executable(${name}_sanitized EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${name}>)
  swiftbalancer_link_twin(${name} PRIVATE ${arg_LIBRARIES})
  add_dependencies(sanitized_tests ${name}_sanitized)
endfunction()

# The test frameworks' headers, compiled once for all tests: they take longer than the tests.
function(swiftbalancer_test_headers)
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cpp "int main() {}\n")
  add_executable(test_headers ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cpp)
  target_link_libraries(test_headers PRIVATE GTest::gmock)
  target_precompile_headers(test_headers PRIVATE <gmock/gmock.h> <gtest/gtest.h> <rapidcheck.h> <rapidcheck/gtest.h>)
  swiftbalancer_test_options(test_headers)
endfunction()

# Every test program is one translation unit, so that what all its sources instantiate is compiled once: nothing unnamed may have the
# same name in two of them.
# swiftbalancer_test(NAME SOURCES ... LIBRARIES target ... [LABELS ...] [SHARDS n] [RESOURCE_LOCK name] [SANITIZED]): one GoogleTest program. With
# SHARDS, ctest runs it as NAME.1 to NAME.n, each a part of its tests. SANITIZED: it has a twin under sanitizers.
function(swiftbalancer_test name)
  cmake_parse_arguments(arg "SANITIZED" "SHARDS;RESOURCE_LOCK" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "swiftbalancer_test(${name}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} GTest::gmock GTest::gtest_main rapidcheck)
  swiftbalancer_test_options(${name})
  target_precompile_headers(${name} REUSE_FROM test_headers)
  set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  if(NOT arg_SHARDS)
    set(arg_SHARDS 1)
  endif()
  if(arg_SANITIZED)
    swiftbalancer_sanitized_twin(${name} LIBRARIES ${arg_LIBRARIES} GTest::gmock GTest::gtest_main rapidcheck)
  endif()
  foreach(program ${name} ${name}_sanitized)
    if(NOT TARGET ${program})
      continue()
    endif()
    set(configurations)
    if(NOT program STREQUAL name)
      set(configurations CONFIGURATIONS Sanitized)
    endif()
    foreach(shard RANGE 1 ${arg_SHARDS})
      set(test ${program})
      if(arg_SHARDS GREATER 1)
        string(APPEND test .${shard})
      endif()
      math(EXPR index "${shard} - 1")
      add_test(NAME ${test} COMMAND ${program} --gtest_brief=1 ${configurations})
      set_tests_properties(${test} PROPERTIES LABELS "${arg_LABELS}" RESOURCE_LOCK "${arg_RESOURCE_LOCK}"
                                              ENVIRONMENT "GTEST_TOTAL_SHARDS=${arg_SHARDS};GTEST_SHARD_INDEX=${index}")
    endforeach()
  endforeach()
endfunction()

# swiftbalancer_test_library(NAME SOURCES ... LIBRARIES target ...): sources that several test programs share, compiled once.
function(swiftbalancer_test_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC ${arg_LIBRARIES} GTest::gmock)
  swiftbalancer_test_options(${name})
  # As programs are: the precompiled header is theirs.
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIE)
  target_precompile_headers(${name} REUSE_FROM test_headers)
  if(SWIFTBALANCER_SANITIZE)
    return()
  endif()
  add_library(${name}_sanitized STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${name}>)
  swiftbalancer_link_twin(${name} PUBLIC ${arg_LIBRARIES})
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
