# abseil, asmjit and GoogleTest: the system's packages where there are any, else fetched at the versions that Debian 12
# has, each pinned by a hash (a git commit is one), and built the same way.
include(FetchContent)
if(POLICY CMP0135)
  cmake_policy(SET CMP0135 NEW)  # extracted files are dated when they are extracted
endif()

# framejit_fetch(name what debian_package): fetches the declared content and adds its targets.
function(framejit_fetch name what debian_package)
  message(STATUS "framejit: ${what} is not installed (Debian: ${debian_package}); fetching it")
  set(BUILD_SHARED_LIBS OFF)
  set(BUILD_TESTING OFF)
  FetchContent_GetProperties(${name})
  if(NOT ${name}_POPULATED)
    FetchContent_Populate(${name})
    add_subdirectory(${${name}_SOURCE_DIR} ${${name}_BINARY_DIR} EXCLUDE_FROM_ALL)
  endif()
endfunction()

macro(framejit_need_abseil)
  find_package(absl CONFIG QUIET)
  if(NOT TARGET absl::strings)
    # Debian builds abseil with its own string_view and optional; the same options keep the sources the same.
    FetchContent_Declare(abseil
      URL https://github.com/abseil/abseil-cpp/archive/refs/tags/20220623.1.tar.gz
      URL_HASH SHA256=91ac87d30cc6d79f9ab974c51874a704de9c2647c40f6932597329a282217ba8
      PATCH_COMMAND sed -i -E "s/^(#define ABSL_OPTION_USE_STD_[A-Z_]+) 2/\\1 0/" absl/base/options.h)
    set(ABSL_PROPAGATE_CXX_STD ON)
    set(ABSL_ENABLE_INSTALL OFF)
    framejit_fetch(abseil abseil libabsl-dev)
  endif()
endmacro()

macro(framejit_need_asmjit)
  find_package(asmjit CONFIG QUIET)
  if(NOT TARGET asmjit::asmjit)
    FetchContent_Declare(asmjit
      GIT_REPOSITORY https://github.com/asmjit/asmjit.git
      GIT_TAG 5b5b0b38775938df4d3779604ff1db60b9a9dcbf)
    set(ASMJIT_STATIC ON CACHE BOOL "" FORCE)
    set(ASMJIT_NO_INSTALL ON CACHE BOOL "" FORCE)
    framejit_fetch(asmjit asmjit libasmjit-dev)
  endif()
endmacro()

macro(framejit_need_googletest)
  find_package(GTest QUIET)
  if(NOT TARGET GTest::gtest_main)
    FetchContent_Declare(googletest
      URL https://github.com/google/googletest/archive/refs/tags/release-1.12.1.tar.gz
      URL_HASH SHA256=81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2)
    set(INSTALL_GTEST OFF)
    framejit_fetch(googletest GoogleTest libgtest-dev)
  endif()
endmacro()
