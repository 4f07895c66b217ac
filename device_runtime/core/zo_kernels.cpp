// The C ABI: checks the arguments, then calls the loops of the best instruction set that the machine has.
#include "zo_kernels.h"

#include <string.h>

#include <atomic>

namespace cooperllm {
namespace {

struct Choice {
  const char* name;
  const KernelTable* kernels;
};

bool machine_has(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (strcmp(name, "avx512") == 0)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (strcmp(name, "avx2") == 0) return __builtin_cpu_supports("avx2");
#endif
  return strcmp(name, "baseline") == 0;
}

// Best first.
constexpr Choice kChoices[] = {
#if defined(__x86_64__)
    {"avx512", &kAvx512Kernels},
    {"avx2", &kAvx2Kernels},
#endif
    {"baseline", &kBaselineKernels}};

std::atomic<const Choice*> chosen{nullptr};

const Choice& choice() {
  const Choice* current = chosen.load(std::memory_order_acquire);
  if (current != nullptr) return *current;
  for (const Choice& candidate : kChoices) {
    if (!machine_has(candidate.name)) continue;
    chosen.store(&candidate, std::memory_order_release);
    return candidate;
  }
  return kChoices[sizeof kChoices / sizeof kChoices[0] - 1];
}

bool is_finite(double value) { return __builtin_fabs(value) <= 1.7976931348623157e308; }

bool make_slice(uint64_t start, uint64_t count, int exponent, Slice* slice) {
  if (exponent < -100 || exponent > 100 || count > UINT64_MAX - start) return false;
  *slice = {start, count, __builtin_ldexp(1.0, exponent), __builtin_ldexp(1.0, -exponent)};
  return true;
}

bool are_guides_good(uint32_t guide_count, const float* const* guides, const double* coefficients) {
  if (guide_count == 0) return true;
  if (guides == nullptr || coefficients == nullptr) return false;
  for (uint32_t guide = 0; guide < guide_count; ++guide)
    if (guides[guide] == nullptr || !is_finite(coefficients[guide])) return false;
  return true;
}

bool is_direction_good(double epsilon, const zo_direction* direction) {
  return epsilon > 0 && is_finite(epsilon) && direction != nullptr && is_finite(direction->isotropic_scale) &&
         are_guides_good(direction->guide_count, direction->guides, direction->coefficients);
}

bool is_step_good(const zo_step* step) {
  if (step == nullptr || !(step->epsilon > 0) || !is_finite(step->epsilon)) return false;
  if (step->direction_count > 0 && (step->directions == nullptr || step->coefficients == nullptr)) return false;
  for (uint32_t j = 0; j < step->direction_count; ++j)
    if (!is_direction_good(step->epsilon, step->directions + j) || !is_finite(step->coefficients[j])) return false;
  return are_guides_good(step->guide_count, step->guides, step->guide_coefficients);
}

// max |value|, or infinity or NaN where there is one: float32 bit patterns without the sign order like magnitudes, NaN
// last.
double largest_magnitude(const float* values, uint64_t count) {
  int32_t largest = 0;
  for (uint64_t i = 0; i < count; ++i) {
    int32_t bits;
    memcpy(&bits, values + i, sizeof bits);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  memcpy(&magnitude, &largest, sizeof magnitude);
  return static_cast<double>(magnitude);
}

// Whether a bound on magnitudes alone, without any random bits, already shows that an update is sound.
bool is_update_surely_good(const Slice& slice, const zo_step& step) {
  double sum = 0;
  for (uint32_t j = 0; j < step.direction_count; ++j) {
    const zo_direction& direction = step.directions[j];
    double z = __builtin_fabs(direction.isotropic_scale);
    if (direction.scale != nullptr) z *= largest_magnitude(direction.scale, slice.count);
    for (uint32_t guide = 0; guide < direction.guide_count; ++guide)
      z += __builtin_fabs(direction.coefficients[guide]) * largest_magnitude(direction.guides[guide], slice.count);
    if (!(step.epsilon * z * slice.steps_per_unit < 0.999 * kRangeEnd)) return false;
    sum += __builtin_fabs(step.coefficients[j] / step.epsilon) * kRangeEnd;
  }
  for (uint32_t guide = 0; guide < step.guide_count; ++guide)
    sum += __builtin_fabs(step.guide_coefficients[guide] * slice.steps_per_unit) *
           largest_magnitude(step.guides[guide], slice.count);
  return sum < 1e300;
}

zo_status judge(const Faults& faults) {
  return faults.not_finite ? ZO_NOT_FINITE : faults.out_of_range ? ZO_OUT_OF_RANGE : ZO_OK;
}

}  // namespace
}  // namespace cooperllm

using namespace cooperllm;

extern "C" {

zo_status zo_perturb(float* theta, uint64_t start, uint64_t count, int exponent, double epsilon,
                     const zo_direction* direction, int multiplier) noexcept {
  Slice slice;
  const bool allowed = multiplier == 1 || multiplier == -1 || multiplier == 2 || multiplier == -2;
  if (!make_slice(start, count, exponent, &slice) || !allowed || (theta == nullptr && count > 0) ||
      !is_direction_good(epsilon, direction))
    return ZO_BAD_ARGUMENT;
  choice().kernels->perturb(theta, slice, epsilon, *direction, multiplier);
  return ZO_OK;
}

zo_status zo_check_direction(uint64_t start, uint64_t count, int exponent, double epsilon,
                             const zo_direction* direction, double lanes_error[8], double lanes_norm[8]) noexcept {
  Slice slice;
  if (!make_slice(start, count, exponent, &slice) || lanes_error == nullptr || lanes_norm == nullptr ||
      !is_direction_good(epsilon, direction))
    return ZO_BAD_ARGUMENT;
  return judge(choice().kernels->check_direction(slice, epsilon, *direction, lanes_error, lanes_norm));
}

void zo_add_lanes(const double lanes_error[8], const double lanes_norm[8], int exponent, double* error,
                  double* norm) noexcept {
  double error_sum = 0, norm_sum = 0;
  for (int lane = 0; lane < 8; ++lane) {
    error_sum += lanes_error[lane];
    norm_sum += lanes_norm[lane];
  }
  const double unit = __builtin_ldexp(1.0, -2 * exponent);
  *error += error_sum * unit;
  *norm += norm_sum * unit;
}

zo_status zo_judge_direction(double error, double norm) noexcept {
  return error <= 0.0004 * norm ? ZO_OK : ZO_BELOW_GRID;
}

zo_status zo_check_update(uint64_t start, uint64_t count, int exponent, const zo_step* step) noexcept {
  Slice slice;
  if (!make_slice(start, count, exponent, &slice) || !is_step_good(step)) return ZO_BAD_ARGUMENT;
  if (is_update_surely_good(slice, *step)) return ZO_OK;
  return judge(choice().kernels->check_update(slice, *step));
}

zo_status zo_update(float* theta, uint64_t start, uint64_t count, int exponent, const zo_step* step,
                    uint64_t* clamped) noexcept {
  Slice slice;
  if (clamped == nullptr || (theta == nullptr && count > 0) || !make_slice(start, count, exponent, &slice))
    return ZO_BAD_ARGUMENT;
  const zo_status status = zo_check_update(start, count, exponent, step);
  if (status == ZO_OK) choice().kernels->update(theta, slice, *step, clamped);
  return status;
}

zo_status zo_check_adapter(const float* theta, uint64_t count, int exponent) noexcept {
  Slice slice;
  if (!make_slice(0, count, exponent, &slice) || (theta == nullptr && count > 0)) return ZO_BAD_ARGUMENT;
  return choice().kernels->check_adapter(theta, slice);
}

zo_status zo_signs(uint64_t seed, uint64_t start, uint64_t count, int8_t* signs) noexcept {
  Slice slice;
  if (!make_slice(start, count, 0, &slice) || (signs == nullptr && count > 0)) return ZO_BAD_ARGUMENT;
  choice().kernels->signs(seed, slice, signs);
  return ZO_OK;
}

zo_status zo_xor_blocks(uint64_t seed, uint32_t stream, uint64_t first_block, uint64_t blocks,
                        uint64_t words[2]) noexcept {
  if (words == nullptr || blocks > UINT64_MAX - first_block) return ZO_BAD_ARGUMENT;
  words[0] = words[1] = 0;
  choice().kernels->xor_blocks(seed, stream, first_block, blocks, words);
  return ZO_OK;
}

const char* zo_instructions(void) noexcept { return choice().name; }

zo_status zo_use_instructions(const char* name) noexcept {
  for (const Choice& candidate : kChoices) {
    if (name == nullptr || strcmp(candidate.name, name) != 0 || !machine_has(name)) continue;
    chosen.store(&candidate, std::memory_order_release);
    return ZO_OK;
  }
  return ZO_BAD_ARGUMENT;
}

}  // extern "C"
