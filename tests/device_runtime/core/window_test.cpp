// ChainFed's window over a small program: where the chain ends, the loss behind the auxiliary branch, and which methods
// are in memory. Prints one line a check; built and run by test_loop.py.
#include "small_program.h"

namespace {

using Names = std::vector<std::string>;

Evaluation evaluated(Bench* bench, const Objective& objective) {
  Evaluation result;
  check(bench->local.evaluate(bench->batches, &result, objective) == ZO_OK, "an evaluation");
  return result;
}

float mean_of(const Bench& bench, uint32_t segment) {
  double mean = 0;
  for (size_t i = 0; i < kWeights; ++i) {
    mean += static_cast<double>(bench.local.chain().adapter()[segment * kWeights + i]) / kWeights;
  }
  return static_cast<float>(mean);
}

// Sum over both batches' rows of local + weight * global, by hand from the hidden state that leaves the last segment.
double by_hand(Bench* bench, uint32_t exit_segment, double weight) {
  std::vector<float> hidden(kRows * kTokens * kWidth);
  double sum = 0;
  for (const Batch& batch : bench->batches) {
    bench->local.hidden(batch, exit_segment, hidden.data());
    for (int row = 0; row < kRows; ++row) {
      float state = hidden[static_cast<size_t>(row * kTokens * kWidth)];
      const double local = static_cast<double>(1.0F + state * mean_of(*bench, kSegments));
      for (uint32_t k = exit_segment; k < kSegments; ++k) state = state + mean_of(*bench, k);
      sum += local + weight * static_cast<double>(1.0F + state * mean_of(*bench, kSegments));
    }
  }
  return sum;
}

void check_losses() {
  Bench bench(true);
  check(bench.measure() == ZO_OK, "the whole chain");
  const std::vector<double> whole = bench.measured.rho;
  check(bench.measure({1, 2, 3}, {kSegments, 0.0}) == ZO_OK && bench.measured.rho == whole,
        "an exit behind the last segment and no weight change no bit");
  check(evaluated(&bench, {kSegments, 0.5}).loss_sum == by_hand(&bench, kSegments, 0.5),
        "the branch of a whole chain is the identity");
  for (const uint32_t exit : {1U, 2U}) {
    check(evaluated(&bench, {exit, 0.0}).loss_sum == by_hand(&bench, exit, 0.0), "the head takes what leaves the exit");
    check(evaluated(&bench, {exit, 0.25}).loss_sum == by_hand(&bench, exit, 0.25), "local + weight * global");
    check(evaluated(&bench, {exit, 0.25}).count == 4.0, "rows count once");
  }
  std::fill_n(bench.local.chain().adapter() + kWeights, 2 * kWeights, 0.0F);
  check(evaluated(&bench, {1, 1.0}).loss_sum == 2.0 * evaluated(&bench, {1, 0.0}).loss_sum,
        "the branch of a zero adapter is the identity: global equals local bit for bit");
}

void check_runs() {
  Bench bench(true);
  check(bench.measure({1, 3}, {2, 0.5}) == ZO_OK && bench.restored(), "a window restores the adapter");
  const std::vector<double> rho = bench.measured.rho;
  const Counters& counted = bench.local.chain().counters;
  check(counted.segment_runs == std::vector<uint64_t>({2, 12, 0, 24}), "one prefix, 2q windows, two heads each");
  check(counted.auxiliary_runs == std::vector<uint64_t>({0, 0, 12}), "2q branches");
  check(bench.program->allocations_at_last == bench.program->allocations_at_first, "no allocation in its loop");
  bench.local.chain().reset_counters();
  bench.measure({3}, {2, 0.5});
  check(counted.auxiliary_runs == std::vector<uint64_t>({0, 0, 2}), "directions in the head share one branch");
  check(counted.segment_runs == std::vector<uint64_t>({2, 2, 0, 24}), "and one state");
  bench.measure({1, 3}, {2, 0.5});
  const long total = bench.program->runs;
  bool good = bench.measured.rho == rho;
  for (bench.program->fail_at = 0; bench.program->fail_at < total; ++bench.program->fail_at) {
    good = good && bench.measure({1, 3}, {2, 0.5}) == ZO_PROGRAM_FAILED && bench.restored();
  }
  check(good, "a failure of any run restores the adapter");
  bench.program->fail_at = -1;
  bench.program->to_stop = &bench.local;
  for (bench.program->stop_at = 0; bench.program->stop_at + 1 < total; ++bench.program->stop_at) {
    good = good && bench.measure({1, 3}, {2, 0.5}) == ZO_STOPPED && bench.restored();
    good = good && bench.program->runs == bench.program->stop_at + 1;
    bench.local.resume();
  }
  check(good, "a stop during any run ends with it and restores the adapter");
}

void check_methods() {
  Bench bench(true);
  Chain& chain = bench.local.chain();
  std::vector<float> hidden(kRows * kTokens * kWidth);
  check(bench.local.hidden(bench.batches[0], 1, hidden.data()) == ZO_OK, "a state");
  check(chain.loaded_methods() == Names({"segment_0", "embed"}), "loads what led to it");
  for (Batch& batch : bench.batches) batch.hidden = hidden.data(), batch.first_segment = 1;
  chain.unload_except({}, {});
  check(bench.measure({1, 3}, {2, 0.0}) == ZO_OK, "a window from a state");
  check(chain.loaded_methods() == Names({"segment_1", "head", "embed"}), "loads the window and the head");
  check(bench.measure({1, 3}, {2, 0.5}) == ZO_OK, "with a weight");
  check(chain.loaded_methods() == Names({"segment_1", "head", "embed", "auxiliary_2"}), "it loads the branch");
  const uint64_t loads = chain.counters.method_loads;
  const std::vector<double> rho = bench.measured.rho;
  check(bench.measure({1, 3}, {2, 0.5}) == ZO_OK && chain.counters.method_loads == loads, "each is loaded once");
  check(loads == 5, "five methods in all");
  chain.unload_except({}, {});
  check(chain.loaded_methods() == Names({"head", "embed"}), "embed and head stay");
  check(bench.measure({1, 3}, {2, 0.5}) == ZO_OK && bench.measured.rho == rho, "loading again changes no bit");
  bench.program->fail_load = 1;
  chain.unload_except({}, {});
  check(bench.measure({1, 3}, {2, 0.5}) == ZO_OUT_OF_MEMORY && bench.restored() && bench.program->runs == 0,
        "a method that cannot be loaded is told before anything runs");
  check(bench.local.message().find("method 'segment_1': ") == 0, "by name");
}

void check_refusals() {
  Bench bench(true), plain(false);
  const auto refused = [](Bench* of, const std::vector<uint32_t>& active, const Objective& objective,
                          const char* word) {
    const bool right = of->measure(active, objective) == ZO_BAD_ARGUMENT && of->restored() && of->program->runs == 0;
    check(right && of->local.message().find(word) != std::string::npos, word);
  };
  refused(&bench, {1, 2}, {2, 0.0}, "a direction perturbs segment 2, which does not run");
  refused(&bench, {1}, {kSegments + 1, 0.0}, "use 1 to 3, or 0 for the whole chain");
  refused(&bench, {1}, {2, -1.0}, "global_weight must be finite");
  refused(&bench, {1}, {2, std::nan("")}, "global_weight must be");
  refused(&plain, {1}, {2, 0.5}, "has no auxiliary branch");
  check(plain.measure({1, 3}, {2, 0.0}) == ZO_OK, "a window needs no branch");
  std::vector<float> hidden(kRows * kTokens * kWidth);
  for (Batch& batch : bench.batches) batch.hidden = hidden.data(), batch.first_segment = 2;
  refused(&bench, {3}, {1, 0.0}, "behind the last one that runs");
}

}  // namespace

int main() {
  check_losses();
  check_runs();
  check_methods();
  check_refusals();
  return failures == 0 ? 0 : 1;
}
