// The loops, written so that the compiler vectorises them; compiled once for each instruction set, which defines
// ZO_LANES, ZO_TOGETHER (vectors of Philox blocks), ZO_HAS_FLOOR and ZO_TABLE. No call into the C++ library: its inline
// functions would be shared between instruction sets. Every operation is an IEEE double or float operation in the order
// written (no FMA, no reassociation), so all sets and the NumPy twin give the same bits.

namespace cooperllm {
namespace {

#include "zo_lanes.inl"

// Adding and taking away 1.5 * 2^52 rounds to a whole number, half to even, for magnitudes below 2^51.
constexpr double kRounder = 6755399441055744.0;
constexpr double kFarBeyondBound = 33554432.0;  // 2^25

inline double round_half_even(double y) { return (y + kRounder) - kRounder; }

// The largest whole number that is not above v, for magnitudes below 2^51; one instruction where there is one.
inline double floor_of(double v) {
#if ZO_HAS_FLOOR
  return __builtin_floor(v);
#else
  const double rounded = round_half_even(v);
  return rounded > v ? rounded - 1.0 : rounded;
#endif
}

inline bool is_finite(double z) { return __builtin_fabs(z) <= 1.7976931348623157e308; }

// A run of parameters within one aligned chunk (of a power of two): chunk indices first .. first + count - 1.
struct Run {
  uint64_t base;  // adapter index of the chunk
  uint64_t first;
  uint64_t count;
  uint64_t done;  // parameters of the slice before the run
};

inline bool next_run(const Slice& slice, Run* run, uint64_t chunk = kChunk) {
  run->done += run->count;
  if (run->done >= slice.count) return false;
  const uint64_t index = slice.start + run->done;
  run->first = index % chunk;
  run->base = index - run->first;
  const uint64_t left = slice.count - run->done, room = chunk - run->first;
  run->count = left < room ? left : room;
  return true;
}

// signs[i] = +1 or -1 for the whole chunk.
void fill_signs(uint64_t seed, uint64_t base, float* signs) {
  static const uint32_t masks[32] = {1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,
                                     1u << 8,  1u << 9,  1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15,
                                     1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21, 1u << 22, 1u << 23,
                                     1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};
  uint64_t pairs[kChunk / 64];
  fill_blocks<kChunk / 128>(seed, 0, base / 128, pairs);
  for (uint64_t word = 0; word < kChunk / 32; ++word) {
    const uint32_t bits = static_cast<uint32_t>(pairs[word / 2] >> (32 * (word % 2)));
    for (int bit = 0; bit < 32; ++bit) signs[32 * word + bit] = (bits & masks[bit]) != 0 ? 1.0f : -1.0f;
  }
}

#include "zo_constant.inl"

bool is_constant(const zo_direction& direction) { return direction.scale == nullptr && direction.guide_count == 0; }

// z of a run, float64, in the order of the definition.
void fill_direction(const zo_direction& direction, const Run& run, double* z) {
  float signs[kChunk];
  fill_signs(direction.seed, run.base, signs);
  const float* sign = signs + run.first;
  const double isotropic = direction.isotropic_scale;
  if (direction.scale == nullptr) {
    for (uint64_t i = 0; i < run.count; ++i) z[i] = isotropic * static_cast<double>(sign[i]);
  } else {
    const float* scale = direction.scale + run.done;
    for (uint64_t i = 0; i < run.count; ++i)
      z[i] = (isotropic * static_cast<double>(scale[i])) * static_cast<double>(sign[i]);
  }
  for (uint32_t guide = 0; guide < direction.guide_count; ++guide) {
    const double coefficient = direction.coefficients[guide];
    const float* values = direction.guides[guide] + run.done;
    for (uint64_t i = 0; i < run.count; ++i) z[i] = z[i] + coefficient * static_cast<double>(values[i]);
  }
}

void perturb(float* theta, const Slice& slice, double epsilon, const zo_direction& direction, int multiplier) {
  const double moved = multiplier * slice.unit;
  if (is_constant(direction)) {
    const double k = round_half_even((epsilon * direction.isotropic_scale) * slice.steps_per_unit);
    return perturb_constant(theta, slice, direction.seed, static_cast<float>(k * moved));
  }
  double z[kChunk];
  for (Run run{}; next_run(slice, &run);) {
    float* target = theta + run.done;
    fill_direction(direction, run, z);
    for (uint64_t i = 0; i < run.count; ++i) {
      const double k = round_half_even((epsilon * z[i]) * slice.steps_per_unit);
      target[i] += static_cast<float>(k * moved);
    }
  }
}

#include "zo_checks.inl"

// Adds a constant direction's steps to x of a run.
void add_constant(uint64_t seed, const Run& run, double amount, double* x) {
  float signs[kChunk];
  fill_signs(seed, run.base, signs);
  const float* sign = signs + run.first;
  for (uint64_t i = 0; i < run.count; ++i) x[i] = x[i] + amount * static_cast<double>(sign[i]);
}

// x of a run, in grid steps.
void fill_steps(const Slice& slice, const zo_step& step, const Run& run, double* x, double* y, Faults* faults) {
  for (uint64_t i = 0; i < run.count; ++i) x[i] = 0.0;
  for (uint32_t j = 0; j < step.direction_count; ++j) {
    const zo_direction& direction = step.directions[j];
    const double weight = step.coefficients[j] / step.epsilon;
    if (is_constant(direction) && faults == nullptr) {
      const double k = round_half_even((step.epsilon * direction.isotropic_scale) * slice.steps_per_unit);
      add_constant(direction.seed, run, weight * k, x);
      continue;
    }
    fill_direction(direction, run, y);
    if (faults == nullptr) {
      for (uint64_t i = 0; i < run.count; ++i)
        x[i] = x[i] + weight * round_half_even((step.epsilon * y[i]) * slice.steps_per_unit);
      continue;
    }
    scale_and_judge(slice, step.epsilon, run.count, y, faults);
    for (uint64_t i = 0; i < run.count; ++i) x[i] = x[i] + weight * round_half_even(y[i]);
  }
  for (uint32_t guide = 0; guide < step.guide_count; ++guide) {
    const double weight = step.guide_coefficients[guide] * slice.steps_per_unit;
    const float* values = step.guides[guide] + run.done;
    for (uint64_t i = 0; i < run.count; ++i) x[i] = x[i] + weight * static_cast<double>(values[i]);
  }
}

Faults check_update(const Slice& slice, const zo_step& step) {
  Faults faults;
  double x[kChunk], y[kChunk];
  for (Run run{}; next_run(slice, &run);) {
    fill_steps(slice, step, run, x, y, &faults);
    int64_t not_finite = 0;
    for (uint64_t i = 0; i < run.count; ++i) not_finite |= is_finite(x[i]) ? 0 : 1;
    faults.not_finite = faults.not_finite || not_finite != 0;
  }
  return faults;
}

// theta + floor(x + (b + 1/2) / 65536) steps of a run; answers whether any result is beyond the bound. Sums of whole
// steps are exact in float32 up to 2^24, and what a larger one is rounded to is still beyond the bound.
bool step_run(float* target, const double* x, const uint16_t* bits, uint64_t count, double unit, float bound) {
  int32_t beyond = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const float moved = target[i] + static_cast<float>(rounded_down(x[i], bits[i]) * unit);
    beyond |= __builtin_fabsf(moved) > bound ? 1 : 0;
    target[i] = moved;
  }
  return beyond != 0;
}

// Whether the step is along at most one direction, and that constant: then x is one number times the noise.
bool is_along_noise(const Slice& slice, const zo_step& step, uint64_t* seed, double* x) {
  *seed = 0;
  *x = 0.0;
  if (step.guide_count != 0 || step.direction_count > 1) return false;
  if (step.direction_count == 0) return true;
  const zo_direction& direction = step.directions[0];
  const double k = round_half_even((step.epsilon * direction.isotropic_scale) * slice.steps_per_unit);
  *seed = direction.seed;
  *x = (step.coefficients[0] / step.epsilon) * k;
  return is_constant(direction);
}

void update(float* theta, const Slice& slice, const zo_step& step, uint64_t* clamped) {
  uint64_t seed;
  double constant;
  if (is_along_noise(slice, step, &seed, &constant))
    return update_constant(theta, slice, seed, step.seed, constant, clamped);
  const float bound = static_cast<float>(kLargestStep * slice.unit);
  double x[kChunk], y[kChunk];
  uint64_t pairs[kChunk / 4];
  uint16_t half_words[kChunk];
  for (Run run{}; next_run(slice, &run);) {
    fill_steps(slice, step, run, x, y, nullptr);
    fill_blocks<kChunk / 8>(step.seed, 1, run.base / 8, pairs);
    __builtin_memcpy(half_words, pairs, sizeof half_words);
    for (uint64_t i = 0; i < run.count; ++i) x[i] = within_reach(x[i]);  // alone, it is one instruction a side
    float* target = theta + run.done;
    if (step_run(target, x, half_words + run.first, run.count, slice.unit, bound))
      *clamped += take_back(target, run.count, bound);
  }
}

zo_status check_adapter(const float* theta, const Slice& slice) {
  int64_t not_finite = 0, out_of_range = 0, off_grid = 0;
  for (uint64_t i = 0; i < slice.count; ++i) {
    const double t = static_cast<double>(theta[i]) * slice.steps_per_unit;
    uint32_t bits;
    __builtin_memcpy(&bits, theta + i, sizeof bits);
    not_finite |= is_finite(t) ? 0 : 1;
    out_of_range |= __builtin_fabs(t) < kLargestStep + 1.0 ? 0 : 1;
    off_grid |= (round_half_even(t) == t ? 0 : 1) | (bits == 0x80000000u ? 1 : 0);
  }
  return not_finite ? ZO_NOT_FINITE : out_of_range ? ZO_OUT_OF_RANGE : off_grid ? ZO_OFF_GRID : ZO_OK;
}

void signs_of(uint64_t seed, const Slice& slice, int8_t* signs) {
  float chunk[kChunk];
  for (Run run{}; next_run(slice, &run);) {
    fill_signs(seed, run.base, chunk);
    for (uint64_t i = 0; i < run.count; ++i) signs[run.done + i] = static_cast<int8_t>(chunk[run.first + i]);
  }
}

void xor_blocks(uint64_t seed, uint32_t stream, uint64_t first_block, uint64_t blocks, uint64_t* out) {
  constexpr uint64_t kBlocks = kChunk / 8;
  uint64_t pairs[2 * kBlocks];
  for (uint64_t done = 0; done < blocks;) {
    const uint64_t skipped = (first_block + done) % kBlocks;
    fill_blocks<kBlocks>(seed, stream, first_block + done - skipped, pairs);
    const uint64_t left = skipped + (blocks - done), end = left < kBlocks ? left : kBlocks;
    uint64_t low = 0, high = 0;
    for (uint64_t block = skipped; block < end; ++block) {
      low ^= pairs[2 * block];
      high ^= pairs[2 * block + 1];
    }
    out[0] ^= low;
    out[1] ^= high;
    done += end - skipped;
  }
}

}  // namespace

const KernelTable ZO_TABLE = {perturb, check_direction, check_update, update, check_adapter, signs_of, xor_blocks};

}  // namespace cooperllm
