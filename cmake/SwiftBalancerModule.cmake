# swiftbalancer_module(NAME [UNITY] SOURCES ... [PUBLIC_HEADERS ...] [DEPENDS module ...] [PRIVATE_LIBRARIES target ...]
#   [DEFINITIONS ...])
#
# One library per src/ folder. A folder's headers are reachable as "name/x.hpp", and the public headers it implements as
# <swiftbalancer/x.hpp>, only by targets that link it: both are linked into an include directory of the module's own.
# A forbidden include therefore does not compile. UNITY: no two sources have something unnamed of the same name, so they can be compiled
# together where that is asked for (SWIFTBALANCER_UNITY_BUILD).
#
# Each module has a twin NAME_sanitized under AddressSanitizer and UndefinedBehaviorSanitizer, compiled when a test asks for it
# (cmake/SwiftBalancerTests.cmake).
function(swiftbalancer_module name)
  cmake_parse_arguments(arg "UNITY" "" "SOURCES;PUBLIC_HEADERS;DEPENDS;PRIVATE_LIBRARIES;DEFINITIONS" ${ARGN})
  set(target swiftbalancer_${name})
  set(view ${PROJECT_BINARY_DIR}/modules/${name})
  file(MAKE_DIRECTORY ${view}/swiftbalancer)
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${view}/${name} SYMBOLIC)
  foreach(header IN LISTS arg_PUBLIC_HEADERS)
    file(CREATE_LINK ${PROJECT_SOURCE_DIR}/include/swiftbalancer/${header} ${view}/swiftbalancer/${header} SYMBOLIC)
  endforeach()

  set(twin)
  if(SWIFTBALANCER_WITH_TESTS AND NOT SWIFTBALANCER_SANITIZE)
    set(twin _sanitized)
  endif()
  foreach(variant "" ${twin})
    set(library ${target}${variant})
    add_library(${library} STATIC ${arg_SOURCES})
    add_library(swiftbalancer::${name}${variant} ALIAS ${library})
    target_include_directories(${library} PUBLIC $<BUILD_INTERFACE:${view}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    foreach(module IN LISTS arg_DEPENDS)
      target_link_libraries(${library} PUBLIC swiftbalancer::${module}${variant})
    endforeach()
    target_link_libraries(${library} PRIVATE ${arg_PRIVATE_LIBRARIES})
    target_compile_definitions(${library} PRIVATE ${arg_DEFINITIONS})
    swiftbalancer_compile_options(${library})
  endforeach()
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  if(arg_UNITY)
    swiftbalancer_unity_build(${target} ${SWIFTBALANCER_UNITY_BUILD})
  endif()
  if(twin)
    if(arg_UNITY)
      swiftbalancer_unity_build(${target}_sanitized ON)
    endif()
    swiftbalancer_sanitize(${target}_sanitized PUBLIC address,undefined)
    target_compile_options(${target}_sanitized PRIVATE -O1 -g1 -UNDEBUG)
    set_target_properties(${target}_sanitized PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
  set_property(GLOBAL APPEND PROPERTY SWIFTBALANCER_PUBLIC_HEADERS ${arg_PUBLIC_HEADERS})
endfunction()

# In a joined unit a local name may be that of another source's constant, and every source looks like a header.
set(swiftbalancer_unity_options -Wno-shadow -Wshadow=local -Wno-subobject-linkage)

# Compiles the sources of a target together, a dozen at a time, if `on`.
function(swiftbalancer_unity_build target on)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${on} UNITY_BUILD_BATCH_SIZE 12)
  if(on)
    target_compile_options(${target} PRIVATE ${swiftbalancer_unity_options})
  endif()
endfunction()

function(swiftbalancer_sanitize target scope sanitizers)
  target_compile_options(${target} ${scope} -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(${target} ${scope} -fsanitize=${sanitizers})
  # g++ 12 reports false maybe-uninitialized and stringop findings in sanitized std code.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-tsan)
  endif()
endfunction()

# Same results on every platform and in every build type: no contraction of a*b+c, no reassociation. Position-independent
# code is inlined as other code is: nobody replaces our functions behind the dynamic linker.
function(swiftbalancer_compile_options target)
  target_compile_options(${target} PRIVATE -ffp-contract=off -fno-semantic-interposition)
  if(SWIFTBALANCER_DEVELOPER_MODE)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Werror
                           -Wno-restrict)  # g++ 12 reports a false overlap inside std::string (GCC bug 105651).
  endif()
  if(SWIFTBALANCER_SANITIZE)
    swiftbalancer_sanitize(${target} PUBLIC ${SWIFTBALANCER_SANITIZE})
  endif()
endfunction()
