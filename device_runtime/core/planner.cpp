#include "planner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace cooperllm {

void Plan::build(const Label* labels, size_t evaluations, size_t positions) {
  labels_ = labels;
  positions_ = positions;
  order_.resize(evaluations);
  std::iota(order_.begin(), order_.end(), 0U);
  runs_.clear();
  slots_ = 1;
  if (evaluations > 0 && positions > 0) descend(0, evaluations, 0, 0, 1);
  labels_ = nullptr;
}

// The evaluations order_[begin, end) agree on everything before `position`; their hidden state lies in `slot`, and
// `held` slots are taken. Children are visited in the order in which their labels first appear. The last child may
// write over the state it started from: nobody comes back to it.
void Plan::descend(size_t begin, size_t end, size_t position, uint32_t slot, uint32_t held) {
  size_t first = begin;
  while (first < end) {
    const Label label = labels_[order_[first] * positions_ + position];
    const auto same = [&](uint32_t evaluation) { return labels_[evaluation * positions_ + position] == label; };
    const auto from = order_.begin();
    const auto split =
        std::stable_partition(from + static_cast<ptrdiff_t>(first), from + static_cast<ptrdiff_t>(end), same);
    const size_t next = static_cast<size_t>(split - from);
    const bool last_child = next == end;
    const uint32_t target = last_child ? slot : held;
    const uint32_t held_below = last_child ? held : held + 1;
    const bool is_head = position + 1 == positions_;
    runs_.push_back({static_cast<uint32_t>(position), label, slot, is_head ? slot : target,
                     static_cast<uint32_t>(first), static_cast<uint32_t>(next - first)});
    if (!is_head) {
      slots_ = std::max(slots_, held_below);
      descend(first, next, position + 1, target, held_below);
    }
    first = next;
  }
}

// By run: the run that made the state which it starts from. runs_.size() stands for the embedded batch.
std::vector<uint32_t> Plan::parents() const {
  std::vector<uint32_t> latest(positions_ + 1, static_cast<uint32_t>(runs_.size())), made(runs_.size());
  for (uint32_t run = 0; run < runs_.size(); ++run) {
    made[run] = latest[runs_[run].position];
    latest[runs_[run].position + 1] = run;
  }
  return made;
}

// The runs' numbers by position; there by label, in the order in which labels first appear, and at the head as they
// are.
std::vector<uint32_t> Plan::level_order() const {
  std::map<std::pair<uint32_t, Label>, uint32_t> first_seen;
  std::vector<std::pair<uint32_t, uint32_t>> rank;
  rank.reserve(runs_.size());
  for (uint32_t run = 0; run < runs_.size(); ++run) {
    const uint32_t position = runs_[run].position;
    const bool is_head = position + 1 == positions_;
    rank.emplace_back(position, is_head ? run : first_seen.insert({{position, runs_[run].label}, run}).first->second);
  }
  std::vector<uint32_t> order(runs_.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return rank[a] < rank[b]; });
  return order;
}

// The tree is the depth-first one; only the walk and its slots differ. Every state of a level is held until its last
// child has run, which writes over it: so there are as many slots as states before the head.
void Plan::build_by_level(const Label* labels, size_t evaluations, size_t positions) {
  build(labels, evaluations, positions);
  slots_ = 1;
  const std::vector<uint32_t> parent = parents(), walk = level_order();
  std::vector<uint32_t> last_child(runs_.size() + 1), slot_after(runs_.size() + 1, 0);
  for (const uint32_t run : walk) last_child[parent[run]] = run;
  std::vector<PlannedRun> by_level;
  by_level.reserve(runs_.size());
  for (const uint32_t number : walk) {
    PlannedRun run = runs_[number];
    run.from_slot = run.to_slot = slot_after[parent[number]];
    const bool is_head = run.position + 1 == positions;
    if (!is_head && last_child[parent[number]] != number) run.to_slot = slots_++;
    slot_after[number] = run.to_slot;
    by_level.push_back(run);
  }
  runs_ = std::move(by_level);
}

}  // namespace cooperllm
