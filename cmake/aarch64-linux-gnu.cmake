# Cross-compiles for 64-bit ARM Linux with Debian's g++-aarch64-linux-gnu: -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake
#
# Python_EXECUTABLE must be a Python of the target that runs here, as the one that scripts/emulator makes: CMake asks
# it for its headers and for the module's suffix. EXECUTORCH_DIR must be the target's.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# GCC's note that C++17 passes a pair of doubles as GCC 10 and later do says nothing about this code.
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)
