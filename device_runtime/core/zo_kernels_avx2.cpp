// The kernels with AVX2 (x86-64 since about 2013). Chosen at run time: see zo_kernels.cpp.
#if defined(__x86_64__)

#include "zo_kernels.h"

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#define ZO_LANES 4
#define ZO_TOGETHER 4
#define ZO_HAS_FLOOR 1
#define ZO_TABLE kAvx2Kernels
#include "zo_kernels.inl"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // __x86_64__
