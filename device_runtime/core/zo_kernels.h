// Inside of the kernels: one table of loops for each instruction set, all compiled from zo_kernels.inl.
#pragma once

#include <stdint.h>

#include "zo.h"

namespace cooperllm {

constexpr uint64_t kChunk = 1024;           // parameters at a time: eight Philox blocks of signs, all buffers in L1
constexpr double kRangeEnd = 8388607.5;     // |rint(y)| >= 2^23 exactly from here on (2^23 - 1/2 rounds to even)
constexpr double kLargestStep = 8388607.0;  // 2^23 - 1

// What one slice is worked on with; validated.
struct Slice {
  uint64_t start;
  uint64_t count;
  double steps_per_unit;  // 2^e
  double unit;            // 2^-e
};

struct Faults {
  bool not_finite = false;
  bool out_of_range = false;
};

struct KernelTable {
  void (*perturb)(float* theta, const Slice& slice, double epsilon, const zo_direction& direction, int multiplier);
  Faults (*check_direction)(const Slice& slice, double epsilon, const zo_direction& direction, double* lanes_error,
                            double* lanes_norm);
  Faults (*check_update)(const Slice& slice, const zo_step& step);
  void (*update)(float* theta, const Slice& slice, const zo_step& step, uint64_t* clamped);
  zo_status (*check_adapter)(const float* theta, const Slice& slice);
  void (*signs)(uint64_t seed, const Slice& slice, int8_t* signs);
  void (*xor_blocks)(uint64_t seed, uint32_t stream, uint64_t first_block, uint64_t blocks, uint64_t* out);
};

extern const KernelTable kBaselineKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#endif

}  // namespace cooperllm
