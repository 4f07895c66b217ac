#include "planner.h"

#include <algorithm>
#include <numeric>

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

}  // namespace cooperllm
