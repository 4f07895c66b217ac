// The kernels with what every CPU of the platform has: SSE2 on x86-64, NEON on arm64.
#include "zo_kernels.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#define ZO_HAS_FLOOR 0
#elif defined(__aarch64__)
#include <arm_neon.h>
#define ZO_HAS_FLOOR 1
#else
#define ZO_HAS_FLOOR 0
#endif

#define ZO_LANES 2
#define ZO_TOGETHER 4
#define ZO_TABLE kBaselineKernels
#include "zo_kernels.inl"
