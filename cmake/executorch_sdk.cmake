# Finds the C++ SDK inside the pinned executorch wheel: headers and shared libraries, no torch, no Python.
#
# Looked for, in this order:
#   1. EXECUTORCH_DIR, the folder `executorch` of an unpacked or installed wheel (for cross-building: the target's)
#   2. the same version, installed beside the running interpreter
#   3. the wheel for the running interpreter, downloaded without its dependencies into the build folder
#
# Sets EXECUTORCH_DIR, EXECUTORCH_LICENSE_FILE, EXECUTORCH_INCLUDE_DIRS, EXECUTORCH_COMPILE_DEFINITIONS and
# EXECUTORCH_CORE_LIBRARIES, the file names of what the core needs in EXECUTORCH_DIR/lib.

set(EXECUTORCH_VERSION 1.5.1)
set(EXECUTORCH_CORE_LIBRARIES libexecutorch.so libexecutorch_kernels_optimized.so
                              libexecutorch_kernels_quantized.so libexecutorch_backend_xnnpack.so libexecutorch_threadpool.so)
set(EXECUTORCH_DIR "" CACHE PATH "Folder `executorch` of executorch ${EXECUTORCH_VERSION}'s wheel")

if(NOT EXECUTORCH_DIR)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import importlib.metadata as m; d = m.distribution('executorch'); print(d.version, d.locate_file('executorch'))"
    OUTPUT_VARIABLE installed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(installed MATCHES "^${EXECUTORCH_VERSION} (.+)$" AND EXISTS "${CMAKE_MATCH_1}/lib/libexecutorch.so")
    set(EXECUTORCH_DIR "${CMAKE_MATCH_1}")
  endif()
endif()

if(NOT EXECUTORCH_DIR)
  set(sdk "${CMAKE_BINARY_DIR}/executorch_sdk-${EXECUTORCH_VERSION}")
  if(NOT EXISTS "${sdk}/executorch/lib/libexecutorch.so")
    message(STATUS "Fetching the wheel of executorch ${EXECUTORCH_VERSION} for its headers and libraries")
    file(MAKE_DIRECTORY "${sdk}")
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -m pip download --quiet --no-deps --only-binary=:all: --dest "${sdk}"
              "executorch==${EXECUTORCH_VERSION}"
      RESULT_VARIABLE failed)
    file(GLOB wheel "${sdk}/executorch-*.whl")
    if(failed OR NOT wheel)
      message(FATAL_ERROR "executorch ${EXECUTORCH_VERSION} could not be fetched: allow pip to reach its index, or pass "
                          "-DEXECUTORCH_DIR=<folder `executorch` of the unpacked wheel>")
    endif()
    file(ARCHIVE_EXTRACT INPUT "${wheel}" DESTINATION "${sdk}")
  endif()
  set(EXECUTORCH_DIR "${sdk}/executorch")
endif()

file(GLOB EXECUTORCH_LICENSE_FILE "${EXECUTORCH_DIR}/../executorch-${EXECUTORCH_VERSION}.dist-info/licenses/LICENSE")
if(NOT EXECUTORCH_LICENSE_FILE)
  message(FATAL_ERROR "no licence beside ${EXECUTORCH_DIR}: EXECUTORCH_DIR must be inside the whole unpacked wheel of "
                      "executorch ${EXECUTORCH_VERSION}")
endif()

find_package(executorch REQUIRED CONFIG PATHS "${EXECUTORCH_DIR}/share/cmake" NO_DEFAULT_PATH)
if(NOT EXECUTORCH_BUILD_VERSION MATCHES "^${EXECUTORCH_VERSION}")
  message(FATAL_ERROR "${EXECUTORCH_DIR} is executorch ${EXECUTORCH_BUILD_VERSION}, not ${EXECUTORCH_VERSION}")
endif()
