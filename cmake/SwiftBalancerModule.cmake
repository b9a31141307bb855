# swiftbalancer_module(NAME [UNITY] SOURCES ... [PUBLIC_HEADERS ...] [DEPENDS module ...] [PRIVATE_LIBRARIES target ...])
#
# One library per src/ folder. A folder's headers are reachable as "name/x.hpp", and the public headers it implements as
# <swiftbalancer/x.hpp>, only by targets that link it: both are linked into an include directory of the module's own.
# A forbidden include therefore does not compile. UNITY: no two sources have something unnamed of the same name, so they can be compiled
# together where that is asked for (SWIFTBALANCER_UNITY_BUILD).
function(swiftbalancer_module name)
  cmake_parse_arguments(arg "UNITY" "" "SOURCES;PUBLIC_HEADERS;DEPENDS;PRIVATE_LIBRARIES" ${ARGN})
  set(target swiftbalancer_${name})
  set(view ${PROJECT_BINARY_DIR}/modules/${name})
  file(MAKE_DIRECTORY ${view}/swiftbalancer)
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${view}/${name} SYMBOLIC)
  foreach(header IN LISTS arg_PUBLIC_HEADERS)
    file(CREATE_LINK ${PROJECT_SOURCE_DIR}/include/swiftbalancer/${header} ${view}/swiftbalancer/${header} SYMBOLIC)
  endforeach()

  add_library(${target} STATIC ${arg_SOURCES})
  add_library(swiftbalancer::${name} ALIAS ${target})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${view}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  list(TRANSFORM arg_DEPENDS PREPEND swiftbalancer::)
  target_link_libraries(${target} PUBLIC ${arg_DEPENDS} PRIVATE ${arg_PRIVATE_LIBRARIES})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  swiftbalancer_compile_options(${target})
  if(arg_UNITY)
    swiftbalancer_unity_build(${target})
  endif()
  set_property(GLOBAL APPEND PROPERTY SWIFTBALANCER_PUBLIC_HEADERS ${arg_PUBLIC_HEADERS})
endfunction()

# In a joined unit a local name may be that of another source's constant.
set(swiftbalancer_unity_options -Wno-shadow -Wshadow=local)

# Compiles the sources of a target together, a dozen at a time, where that is asked for.
function(swiftbalancer_unity_build target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${SWIFTBALANCER_UNITY_BUILD} UNITY_BUILD_BATCH_SIZE 12)
  if(SWIFTBALANCER_UNITY_BUILD)
    target_compile_options(${target} PRIVATE ${swiftbalancer_unity_options})
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
    target_compile_options(${target} PUBLIC -fsanitize=${SWIFTBALANCER_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${SWIFTBALANCER_SANITIZE})
    # g++ 12 reports false maybe-uninitialized and stringop findings in sanitized std code.
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-tsan)
    endif()
  endif()
endfunction()
