// Perturbation and update along one direction without scale and guides: z is +c or -c, and -c times anything is
// exactly the negative of c times it. So a parameter's move is one of two numbers (perturb) or of four (update) that
// are worked out once, and the loops only choose: in float32, a group of parameters at a time, from bits to sum without
// a pass through memory. Included by zo_kernels.inl.

constexpr uint64_t kSpan = 4096;                        // parameters in a chunk here: noise of many blocks at once
constexpr uint64_t kGroup = ZO_LANES == 8 ? 256 : 128;  // parameters that an update works on together
constexpr uint64_t kWords = kGroup / 32;                // of noise
constexpr uint64_t kFloats = uint64_t{2} * ZO_LANES;
constexpr uint64_t kAhead = 512;  // parameters that memory is asked for before they are needed

typedef float Floats __attribute__((vector_size(kFloats * 4)));
typedef int32_t Ints __attribute__((vector_size(kFloats * 4)));
typedef uint16_t Halves __attribute__((vector_size(kFloats * 2)));

inline Floats load(const float* from) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}

inline void store(float* to, Floats values) { __builtin_memcpy(to, &values, sizeof values); }

#if ZO_LANES == 8 && defined(__x86_64__)

// plus or minus for each parameter of the `part`-th vector in a word of noise.
inline Floats choose(uint32_t word, uint64_t part, Floats plus, Floats minus) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(word >> (16 * part)), minus, plus);
}

#else

// Which parameters of the `part`-th vector in a word of noise have +1.
inline Ints positive(uint32_t word, uint64_t part) {
  Ints bits;
  for (uint64_t lane = 0; lane < kFloats; ++lane) bits[lane] = static_cast<int32_t>(1u << (part * kFloats + lane));
  return ((Ints{} + static_cast<int32_t>(word)) & bits) != 0;
}

inline Floats choose(uint32_t word, uint64_t part, Floats plus, Floats minus) {
  return positive(word, part) ? plus : minus;
}

#endif

// Asks for the memory of 32 parameters that come later. A few lines at a time: many at once would wait for each other.
// Nothing is read, so past the end it is harmless.
inline void ask_ahead(const float* target) {
  __builtin_prefetch(target + kAhead, 1);
  __builtin_prefetch(target + kAhead + 16, 1);
}

// A run's groups, in place where it consists of whole groups, otherwise in a copy with zeros around it.
struct Groups {
  uint64_t first;
  uint64_t end;
  float* values;  // of group `first`
  float copy[kSpan];
};

void open_groups(const Run& run, float* target, Groups* groups) {
  groups->first = run.first / kGroup;
  groups->end = (run.first + run.count + kGroup - 1) / kGroup;
  const uint64_t skipped = run.first % kGroup, whole = (groups->end - groups->first) * kGroup;
  groups->values = target;
  if (whole == run.count) return;
  groups->values = groups->copy;
  for (uint64_t i = 0; i < whole; ++i) groups->copy[i] = 0.0f;
  __builtin_memcpy(groups->copy + skipped, target, run.count * sizeof(float));
}

void close_groups(const Run& run, const Groups& groups, float* target) {
  if (groups.values != target) __builtin_memcpy(target, groups.copy + run.first % kGroup, run.count * sizeof(float));
}

void fill_noise(uint64_t seed, uint64_t base, uint32_t* words) {
  uint64_t pairs[kSpan / 64];
  fill_blocks<kSpan / 128>(seed, 0, base / 128, pairs);
  __builtin_memcpy(words, pairs, sizeof pairs);
}

void perturb_constant(float* theta, const Slice& slice, uint64_t seed, float move) {
  const Floats plus = Floats{} + move, minus = -plus;
  uint32_t noise[kSpan / 32];
  Groups groups;
  for (Run run{}; next_run(slice, &run, kSpan);) {
    fill_noise(seed, run.base, noise);
    open_groups(run, theta + run.done, &groups);
    float* target = groups.values;
    for (uint64_t word = kWords * groups.first; word < kWords * groups.end; ++word, target += 32) {
      ask_ahead(target);
      for (uint64_t part = 0; part < 32 / kFloats; ++part) {
        float* at = target + part * kFloats;
        store(at, load(at) + choose(noise[word], part, plus, minus));
      }
    }
    close_groups(run, groups, theta + run.done);
  }
}

// floor(x + (b + 1/2) / 65536) for a fixed x as a function of the random bits b: `below` while b <= last, one more
// from there on. It is so also after the sum is rounded: x + (b + 1/2) / 65536 never falls as b grows, and grows by
// less than 1 in all. In units of theta; what is 2^24 steps or more ends at the bound and may be any such number.
struct Rounding {
  float below;
  int32_t last;
};

// x without what makes no difference: beyond 2^25 steps any value ends at the bound.
inline double within_reach(double x) {
  const double above = x < -kFarBeyondBound ? -kFarBeyondBound : x;
  return above > kFarBeyondBound ? kFarBeyondBound : above;
}

inline double rounded_down(double x, int32_t bits) {
  return floor_of(x + (static_cast<double>(bits) * 0x1p-16 + 0x1p-17));
}

Rounding rounding_of(double x, const Slice& slice) {
  const double below = rounded_down(x, 0);
  int32_t last = 0, above = 65536;
  while (above - last > 1) {
    const int32_t middle = (last + above) / 2;
    if (rounded_down(x, middle) > below)
      above = middle;
    else
      last = middle;
  }
  return {static_cast<float>(below * slice.unit), last};
}

// The four moves, and how far from zero the results went.
struct Step {
  Floats below_plus, below_minus, unit;
  int32_t last_plus, last_minus;
  Floats farthest;
};

#if ZO_LANES == 8 && defined(__x86_64__)

// Sixteen parameters, of which `positive` and `above` have a bit each.
inline __attribute__((always_inline)) void step_part(float* at, __mmask16 positive, __mmask16 above, Step* step) {
  const __m512 below = _mm512_mask_blend_ps(positive, step->below_minus, step->below_plus);
  const __m512 moved = _mm512_add_ps(load(at), _mm512_mask_add_ps(below, above, below, step->unit));
  step->farthest = _mm512_range_ps(step->farthest, moved, 0b1011);  // the larger magnitude
  store(at, moved);
}

// The 32 random numbers are compared as they come, 16 bits each; noise and answers stay masks.
inline __attribute__((always_inline)) void step_word(float* target, uint32_t noise, const uint16_t* bits, Step* step) {
  const __m512i last = _mm512_mask_blend_epi16(noise, _mm512_set1_epi16(static_cast<int16_t>(step->last_minus)),
                                               _mm512_set1_epi16(static_cast<int16_t>(step->last_plus)));
  const __mmask32 above = _mm512_cmpgt_epu16_mask(_mm512_loadu_si512(bits), last);
  step_part(target, static_cast<__mmask16>(noise), static_cast<__mmask16>(above), step);
  step_part(target + 16, static_cast<__mmask16>(noise >> 16), static_cast<__mmask16>(_kshiftri_mask32(above, 16)),
            step);
}

#else

inline __attribute__((always_inline)) void step_word(float* target, uint32_t noise, const uint16_t* bits, Step* step) {
  for (uint64_t part = 0; part < 32 / kFloats; ++part) {
    float* at = target + part * kFloats;
    Halves halves;
    __builtin_memcpy(&halves, bits + part * kFloats, sizeof halves);
    const Ints is_positive = positive(noise, part);
    const Ints last = is_positive ? Ints{} + step->last_plus : Ints{} + step->last_minus;
    const Floats below = is_positive ? step->below_plus : step->below_minus;
    const Floats move = below + (__builtin_convertvector(halves, Ints) > last ? step->unit : Floats{});
    const Floats moved = load(at) + move;
    const Floats magnitude = (Floats)((Ints)moved & 0x7FFFFFFF);
    step->farthest = magnitude > step->farthest ? magnitude : step->farthest;
    store(at, moved);
  }
}

#endif

// Takes results beyond the bound back to it; answers how many there were.
uint64_t take_back(float* target, uint64_t count, float bound) {
  uint64_t clamped = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const float moved = target[i];
    clamped += moved > bound || moved < -bound ? 1 : 0;
    const float above = moved < -bound ? -bound : moved;
    target[i] = above > bound ? bound : above;
  }
  return clamped;
}

bool is_beyond(const Step& step, float bound) {
  int32_t beyond = 0;
  for (uint64_t lane = 0; lane < kFloats; ++lane) beyond |= step.farthest[lane] > bound ? 1 : 0;
  return beyond != 0;
}

void update_constant(float* theta, const Slice& slice, uint64_t noise_seed, uint64_t update_seed, double x,
                     uint64_t* clamped) {
  const Rounding plus = rounding_of(within_reach(x), slice), minus = rounding_of(within_reach(-x), slice);
  const float bound = static_cast<float>(kLargestStep * slice.unit);
  Step step{Floats{} + plus.below,
            Floats{} + minus.below,
            Floats{} + static_cast<float>(slice.unit),
            plus.last,
            minus.last,
            Floats{}};
  uint32_t noise[kSpan / 32];
  uint64_t pairs[kGroup / 4];
  uint16_t bits[kGroup];
  Groups groups;
  for (Run run{}; next_run(slice, &run, kSpan);) {
    fill_noise(noise_seed, run.base, noise);
    open_groups(run, theta + run.done, &groups);
    step.farthest = Floats{};
    float* target = groups.values;
    for (uint64_t group = groups.first; group < groups.end; ++group, target += kGroup) {
      fill_blocks<kGroup / 8>(update_seed, 1, (run.base + group * kGroup) / 8, pairs);
      __builtin_memcpy(bits, pairs, sizeof bits);
#pragma GCC unroll 1  // unrolled, it keeps a group in registers and was seen a sixth slower from memory
      for (uint64_t word = 0; word < kWords; ++word) {
        ask_ahead(target + 32 * word);
        step_word(target + 32 * word, noise[kWords * group + word], bits + 32 * word, &step);
      }
    }
    close_groups(run, groups, theta + run.done);
    if (is_beyond(step, bound)) *clamped += take_back(theta + run.done, run.count, bound);
  }
}
