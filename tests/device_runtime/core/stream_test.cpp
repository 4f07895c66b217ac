// Streaming order over a small program: no heap allocation in any call of advance(), the bits of measure(), and the
// adapter restored bit for bit whatever run fails or is stopped. Prints one line a check; built and run by
// test_loop.py.
#include "small_program.h"

namespace {

// Guides are set for one call each, and gone after it. The answer of the call that failed, or of finish().
zo_status streamed(Bench* bench, const std::vector<uint32_t>& active, const Objective& objective, bool* allocated) {
  bench->program->runs = 0;
  bench->local.clear_guides(1);
  zo_status status = bench->local.begin(bench->batches, bench->directions, 1e-3, active, objective);
  if (status != ZO_OK) return status;
  const std::vector<uint32_t> segments = bench->local.streamed_segments();
  for (const uint32_t segment : segments) {
    if (segment == 1) bench->local.set_guide(0, 1, bench->guide.data());
    const long before = allocations;
    status = bench->local.advance();
    *allocated = *allocated || (status == ZO_OK && allocations != before);
    if (!bench->restored()) return ZO_OFF_GRID;
    if (status != ZO_OK) return status;
    if (segment == 1) bench->local.clear_guide(0, 1);
  }
  return bench->local.finish(&bench->measured);
}

void check_order(const std::vector<uint32_t>& active, const Objective& objective) {
  Bench bench(true);
  check(bench.measure(active, objective) == ZO_OK, "depth first");
  const std::vector<double> rho = bench.measured.rho;
  const Counters before = bench.local.chain().counters;
  bench.measured = {};
  bench.local.chain().reset_counters();
  bool allocated = false;
  check(streamed(&bench, active, objective, &allocated) == ZO_OK && bench.measured.rho == rho, "the bits of measure()");
  check(!allocated, "no allocation in advance()");
  const Counters& counted = bench.local.chain().counters;
  check(counted.segment_runs == before.segment_runs && counted.auxiliary_runs == before.auxiliary_runs &&
            counted.embed_runs == before.embed_runs,
        "the runs of measure()");

  const long total = bench.program->runs;
  bool good = true;
  for (bench.program->fail_at = 0; bench.program->fail_at < total; ++bench.program->fail_at) {
    good = good && streamed(&bench, active, objective, &allocated) == ZO_PROGRAM_FAILED && bench.restored();
    good = good && bench.local.advance() == ZO_BAD_ARGUMENT;
  }
  check(good, "a failure of any run restores the adapter and ends the measurement");
  bench.program->fail_at = -1;
  bench.program->to_stop = &bench.local;
  for (bench.program->stop_at = 0; bench.program->stop_at + 1 < total; ++bench.program->stop_at) {
    good = good && streamed(&bench, active, objective, &allocated) == ZO_STOPPED && bench.restored();
    good = good && bench.program->runs == bench.program->stop_at + 1;
    bench.local.resume();
  }
  check(good, "a stop during any run ends with it and restores the adapter");
  bench.program->stop_at = -1;
  check(streamed(&bench, active, objective, &allocated) == ZO_OK && bench.measured.rho == rho && !allocated,
        "afterwards everything is as before");
}

void check_batches() {
  Bench bench;
  bool allocated = false;
  streamed(&bench, {1, 2, 3}, {}, &allocated);
  const std::vector<double> rho = bench.measured.rho;
  bench.batches.resize(1);
  streamed(&bench, {1, 2, 3}, {}, &allocated);
  check(bench.measured.rho == rho, "the mean over equal batches is that of one");
}

void check_pairs() {
  Bench bench(false, true);
  bench.local.set_pair_tokens(kTokens);
  bool allocated = false;
  check(streamed(&bench, {1, 2, 3}, {}, &allocated) == ZO_OK, "with pairs allowed");
  check(bench.local.chain().counters.pair_runs == std::vector<uint64_t>({0, 0, 0}), "each sign runs by itself");
}

void check_memory() {
  Bench bench;
  bench.measure();
  const Chain& chain = bench.local.chain();
  bench.local.begin(bench.batches, bench.directions, 1e-3, {1, 2, 3});
  check(chain.apart_slot(1) - chain.apart_slot(0) == 6, "two states a direction and batch");
  bench.local.abandon();
  check(bench.local.streamed_segments().empty() && bench.restored(), "an abandoned measurement is gone");
  check(bench.measure() == ZO_OK, "and leaves the core to others");
}

}  // namespace

int main() {
  check_order({1, 2, 3}, {});
  check_order({0, 2}, {});
  check_order({3}, {});
  check_order({1, 3}, {2, 0.5});
  check_order({3}, {2, 0.5});
  check_batches();
  check_pairs();
  check_memory();
  return failures == 0 ? 0 : 1;
}
