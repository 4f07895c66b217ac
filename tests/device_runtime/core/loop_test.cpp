// The loop of the local update over a small program: no heap allocation between the first and the last run, and the
// adapter restored bit for bit whatever run fails or is stopped. Prints one line a check; built and run by
// test_loop.py.
#include "small_program.h"

namespace {

// Both signs in one forward do the same arithmetic here, so the scalars are the same to the last bit.
void check_pairs(const std::vector<double>& rho) {
  Bench bench(false, true);
  check(bench.measure() == ZO_OK && bench.measured.rho == rho, "pairs that nobody asked for are not run");
  bench.local.set_pair_tokens(kTokens);
  bench.local.chain().reset_counters();
  check(bench.measure() == ZO_OK && bench.restored() && bench.measured.rho == rho, "a pair is its two signs");
  const Counters& counted = bench.local.chain().counters;
  check(counted.pair_runs == std::vector<uint64_t>({0, 6, 6}) &&
            counted.segment_runs == std::vector<uint64_t>({2, 0, 0, 12}),
        "one prefix, q pairs and 2q heads a batch");
  check(bench.program->allocations_at_last == bench.program->allocations_at_first, "no allocation in its loop");
  bool good = true;
  const long total_runs = bench.program->runs;
  for (long run = 0; run < total_runs; ++run) {
    bench.program->fail_at = run;
    good = good && bench.measure() == ZO_PROGRAM_FAILED && bench.restored();
  }
  bench.program->fail_at = -1;
  check(good && bench.measure() == ZO_OK && bench.measured.rho == rho, "a failed pair leaves the adapter as it was");
  bench.local.set_pair_tokens(kTokens - 1);
  bench.local.chain().reset_counters();
  check(bench.measure() == ZO_OK && counted.pair_runs[1] == 0, "longer batches are run one sign at a time");
}

}  // namespace

int main() {
  Bench bench;
  check(bench.loaded == ZO_OK && bench.local.chain().loaded_methods().empty(), "the program opens and loads nothing");
  check(bench.measure() == ZO_OK && bench.restored(), "a measurement restores the adapter");
  const long total_runs = bench.program->runs;
  check(total_runs == 2 * (1 + 1 + 6 * 3), "embed once, one prefix and 2q suffixes a batch");
  check(bench.program->allocations_at_last == bench.program->allocations_at_first, "no allocation in the first loop");
  const std::vector<double> rho = bench.measured.rho;
  check(rho[0] != 0.0 && rho[0] != rho[1], "the losses see the perturbations");
  bench.measure();
  check(bench.program->allocations_at_last == bench.program->allocations_at_first, "no allocation in a later loop");
  check(bench.measured.rho == rho, "a repetition gives the same bits");

  bool good = true;
  for (long run = 0; run < total_runs; ++run) {
    bench.program->fail_at = run;
    good = good && bench.measure() == ZO_PROGRAM_FAILED && bench.restored();
  }
  check(good, "a failure of any run restores the adapter");
  bench.program->fail_at = -1;
  bench.program->to_stop = &bench.local;
  for (long run = 0; run + 1 < total_runs; ++run) {
    bench.program->stop_at = run;
    good = good && bench.measure() == ZO_STOPPED && bench.restored() && bench.program->runs == run + 1;
    bench.local.resume();
  }
  check(good, "a stop during any run ends with it and restores the adapter");
  bench.program->stop_at = -1;
  check(bench.measure() == ZO_OK && bench.measured.rho == rho, "afterwards everything is as before");
  check_pairs(rho);
  return failures == 0 ? 0 : 1;
}
