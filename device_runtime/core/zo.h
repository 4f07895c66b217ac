/* The arithmetic of the adapter: perturb, check, update. The C++ twin of device_runtime/zo, equal to it bit for bit
 * on any CPU; the formulas and their sources are there. Every kernel works on one slice of one tensor: `start` is
 * the index of the slice's first parameter in the whole adapter, all pointers point at the slice's own first
 * element, and `exponent` is the tensor's (-100 to 100). Any cut of a tensor into slices, in any order and on any
 * threads, gives the same bits. (zo_check_direction alone adds floats: its slices must follow each other.) No kernel
 * allocates, throws, locks or keeps state. epsilon must be finite and positive, scalar scales and coefficients
 * finite; otherwise, and for null pointers, the answer is ZO_BAD_ARGUMENT and nothing is written. */
#ifndef COOPERLLM_ZO_H
#define COOPERLLM_ZO_H

#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* z = isotropic_scale * s (.) v(seed) + sum_j coefficients[j] * guides[j]. `scale` may be null: 1. */
typedef struct {
  uint64_t seed;
  double isotropic_scale;
  const float* scale;
  uint32_t guide_count;
  const float* const* guides;
  const double* coefficients;
} zo_direction;

/* theta + sum_j (coefficients[j] / epsilon) * k_j * 2^-e + sum_k guide_coefficients[k] * guides[k], over the
 * directions and guides that are active in this slice. */
typedef struct {
  double epsilon;
  uint64_t seed; /* of the stochastic rounding */
  uint32_t direction_count;
  const zo_direction* directions;
  const double* coefficients;
  uint32_t guide_count;
  const float* const* guides;
  const double* guide_coefficients;
} zo_step;

/* Adds multiplier * k grid steps; multiplier is +1, -1, +2 or -2. The direction has passed zo_check_direction: only
 * then is the sum exact, so that +1, -2, +1 restores every bit. */
zo_status zo_perturb(float* theta, uint64_t start, uint64_t count, int exponent, double epsilon,
                     const zo_direction* direction, int multiplier) ZO_NOEXCEPT;

/* Adds (k - y)^2 and y^2, y = (epsilon * z) * 2^e, to the lane `index mod 8` of each parameter. Call it slice after
 * slice of a tensor, from lanes of zero. Answers ZO_NOT_FINITE or ZO_OUT_OF_RANGE (|k| >= 2^23) for what must not be
 * perturbed; the lanes then mean nothing. */
zo_status zo_check_direction(uint64_t start, uint64_t count, int exponent, double epsilon,
                             const zo_direction* direction, double lanes_error[8], double lanes_norm[8]) ZO_NOEXCEPT;

/* Adds a tensor's lanes, in order and in units of 4^-e, to the sums over tensors. */
void zo_add_lanes(const double lanes_error[8], const double lanes_norm[8], int exponent, double* error,
                  double* norm) ZO_NOEXCEPT;

/* ZO_OK, or ZO_BELOW_GRID when the error is over 2 % of the norm (both are squares). */
zo_status zo_judge_direction(double error, double norm) ZO_NOEXCEPT;

/* Whether zo_update would answer ZO_OK: ZO_NOT_FINITE, ZO_OUT_OF_RANGE otherwise. Writes nothing. Call it for every
 * slice before the first zo_update, so that an error leaves the whole adapter as it was. */
zo_status zo_check_update(uint64_t start, uint64_t count, int exponent, const zo_step* step) ZO_NOEXCEPT;

/* Steps the slice with stochastic rounding and adds the number of clamped parameters to *clamped. Checks first, as
 * zo_check_update does: on an error the slice is as it was. */
zo_status zo_update(float* theta, uint64_t start, uint64_t count, int exponent, const zo_step* step,
                    uint64_t* clamped) ZO_NOEXCEPT;

/* ZO_OK when every value is finite, below 2^(23-e), on the grid and not -0.0; otherwise the first of ZO_NOT_FINITE,
 * ZO_OUT_OF_RANGE, ZO_OFF_GRID that applies to any value. */
zo_status zo_check_adapter(const float* theta, uint64_t count, int exponent) ZO_NOEXCEPT;

/* The raw material, for tests: one Philox4x32-10 block, and the signs (+1 or -1) of a slice. */
void zo_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t output[4]) ZO_NOEXCEPT;
zo_status zo_signs(uint64_t seed, uint64_t start, uint64_t count, int8_t* signs) ZO_NOEXCEPT;

/* All of some consecutive Philox blocks, combined by exclusive or (low words first): how fast they can be had. */
zo_status zo_xor_blocks(uint64_t seed, uint32_t stream, uint64_t first_block, uint64_t blocks,
                        uint64_t words[2]) ZO_NOEXCEPT;

/* The instruction set that the kernels run with: "baseline", "avx2" or "avx512". zo_use_instructions picks one that
 * the machine has (ZO_BAD_ARGUMENT otherwise), for tests and benchmarks; not while a kernel runs. */
const char* zo_instructions(void) ZO_NOEXCEPT;
zo_status zo_use_instructions(const char* name) ZO_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif /* COOPERLLM_ZO_H */
