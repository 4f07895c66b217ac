// What must hold before the first perturbation: z finite, y = (epsilon * z) * 2^e in range, and the sums that tell how
// much of the direction the rounding to the grid leaves. Included by zo_kernels.inl.

// The faults of z and y in a run; y replaces z.
void scale_and_judge(const Slice& slice, double epsilon, uint64_t count, double* z, Faults* faults) {
  int64_t not_finite = 0, out_of_range = 0;
  for (uint64_t i = 0; i < count; ++i) {
    not_finite |= is_finite(z[i]) ? 0 : 1;
    z[i] = (epsilon * z[i]) * slice.steps_per_unit;
    out_of_range |= __builtin_fabs(z[i]) < kRangeEnd ? 0 : 1;
  }
  faults->not_finite = faults->not_finite || not_finite != 0;
  faults->out_of_range = faults->out_of_range || out_of_range != 0;
}

// The eight lanes of a sum: lane l holds parameters l, l + 8, l + 16 ... of the adapter, added in that order.
typedef double Eight __attribute__((vector_size(64)));

Faults check_direction(const Slice& slice, double epsilon, const zo_direction& direction, double* lanes_error,
                       double* lanes_norm) {
  Faults faults;
  Eight error, norm;
  double y[kChunk];
  __builtin_memcpy(&error, lanes_error, sizeof error);
  __builtin_memcpy(&norm, lanes_norm, sizeof norm);
  for (Run run{}; next_run(slice, &run);) {
    // Zeros around the run fill its first and last group of lanes; adding them changes nothing.
    const uint64_t first = run.first & ~uint64_t{7}, last = (run.first + run.count + 7) & ~uint64_t{7};
    for (uint64_t i = first; i < run.first; ++i) y[i] = 0.0;
    for (uint64_t i = run.first + run.count; i < last; ++i) y[i] = 0.0;
    if (is_constant(direction)) {  // signs do not change a square
      for (uint64_t i = 0; i < run.count; ++i) y[run.first + i] = direction.isotropic_scale;
    } else {
      fill_direction(direction, run, y + run.first);
    }
    scale_and_judge(slice, epsilon, run.count, y + run.first, &faults);
    for (uint64_t group = first; group < last; group += 8) {
      Eight exact;
      __builtin_memcpy(&exact, y + group, sizeof exact);
      const Eight off = ((exact + kRounder) - kRounder) - exact;
      error += off * off;
      norm += exact * exact;
    }
  }
  __builtin_memcpy(lanes_error, &error, sizeof error);
  __builtin_memcpy(lanes_norm, &norm, sizeof norm);
  return faults;
}
