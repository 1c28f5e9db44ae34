# What `cmake --install` puts where: the shared library, its headers, cenote.pc and the package for
# find_package(cenote). The command and its manual page are installed by cli/.
include(CMakePackageConfigHelpers)

set(CENOTE_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/cenote)

install(TARGETS cenote EXPORT cenoteTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/cenote DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
install(DIRECTORY share/hardware DESTINATION ${CMAKE_INSTALL_DATADIR}/cenote)
install(EXPORT cenoteTargets NAMESPACE cenote:: DESTINATION ${CENOTE_PACKAGE_DIR})

configure_package_config_file(cmake/cenoteConfig.cmake.in ${PROJECT_BINARY_DIR}/cenoteConfig.cmake
                              INSTALL_DESTINATION ${CENOTE_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cenoteConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
# Relative to itself, so that `cmake --install --prefix` may choose another place than configure did.
file(RELATIVE_PATH CENOTE_PREFIX_FROM_PC ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
     ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/cenote.pc.in ${PROJECT_BINARY_DIR}/cenote.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cenoteConfig.cmake
        ${PROJECT_BINARY_DIR}/cenoteConfigVersion.cmake DESTINATION ${CENOTE_PACKAGE_DIR})
install(FILES ${PROJECT_BINARY_DIR}/cenote.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
