# Installing the library: find_package(swiftbalancer) gives swiftbalancer::swiftbalancer, which links the modules that a
# user's engine needs. Public headers only.
include(CMakePackageConfigHelpers)

set(installed_modules core planner protocol transport migration runtime io registration)
list(TRANSFORM installed_modules PREPEND swiftbalancer_ OUTPUT_VARIABLE installed_targets)

add_library(swiftbalancer_library INTERFACE)
add_library(swiftbalancer::swiftbalancer ALIAS swiftbalancer_library)
set_target_properties(swiftbalancer_library PROPERTIES EXPORT_NAME swiftbalancer)
target_link_libraries(swiftbalancer_library INTERFACE ${installed_targets})
target_compile_features(swiftbalancer_library INTERFACE cxx_std_20)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/swiftbalancer)
install(TARGETS swiftbalancer_library ${installed_targets} EXPORT swiftbalancerTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
get_property(public_headers GLOBAL PROPERTY SWIFTBALANCER_PUBLIC_HEADERS)
list(TRANSFORM public_headers PREPEND ${PROJECT_SOURCE_DIR}/include/swiftbalancer/)
install(FILES ${public_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/swiftbalancer COMPONENT library)
install(EXPORT swiftbalancerTargets NAMESPACE swiftbalancer:: DESTINATION ${package_dir} COMPONENT library)

configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/swiftbalancerConfig.cmake.in ${PROJECT_BINARY_DIR}/swiftbalancerConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/swiftbalancerConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/swiftbalancerConfig.cmake ${PROJECT_BINARY_DIR}/swiftbalancerConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT library)

install(TARGETS swiftbalancer-planner RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT library)
if(SWIFTBALANCER_WITH_TOOLS)
  install(TARGETS swiftbalancer RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT tool)
endif()
