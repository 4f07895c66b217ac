// The kernels with AVX-512 F, BW, DQ and VL. Chosen at run time: see zo_kernels.cpp.
#if defined(__x86_64__)

#include "zo_kernels.h"

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
// GCC 12's own header for AVX-512 reads a variable that it leaves undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

#define ZO_LANES 8
#define ZO_TOGETHER 4
#define ZO_HAS_FLOOR 1
#define ZO_TABLE kAvx512Kernels
#include "zo_kernels.inl"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // __x86_64__
