// The planner: the fewest segment runs that give a set of losses.
//
// Every loss that is wanted is a string of labels, one a segment: 0 is the adapter as it is, +(d+1) and -(d+1) are
// direction d added and subtracted in that segment. Two strings with a common beginning share the hidden state after
// it, so the runs that are needed are the nodes of the trie of these strings: no segment runs twice on the same input.
// SPSA, directions that are zero before some segment and FedSPZO's two blocks differ only in their strings.
//
// Pure: knows no program, no adapter and no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cooperllm {

using Label = int32_t;

// One segment run. For the last position (the head) `to_slot` means nothing and the result belongs to the
// evaluations order()[first_evaluation .. first_evaluation + evaluation_count).
struct PlannedRun {
  uint32_t position;
  Label label;
  uint32_t from_slot;
  uint32_t to_slot;
  uint32_t first_evaluation;
  uint32_t evaluation_count;
};

class Plan {
 public:
  // labels[e * positions + p] is the label of evaluation e at position p. Keeps its memory between calls; throws
  // std::bad_alloc when it has to grow and cannot.
  void build(const Label* labels, size_t evaluations, size_t positions);

  // The same runs position by position: streaming order, in which what a segment needs is needed once, for all strings,
  // and then never again. Before the head, runs of one label follow each other (the adapter is perturbed once a label);
  // at the head, runs on one state do (what that state gives without a label is computed once). Holds one hidden state
  // for every distinct string without its head; throws as build() does.
  void build_by_level(const Label* labels, size_t evaluations, size_t positions);

  // In the order in which they must happen. Slot 0 holds the embedded batch at the start.
  const std::vector<PlannedRun>& runs() const noexcept { return runs_; }
  const std::vector<uint32_t>& order() const noexcept { return order_; }

  // How many hidden states have to be kept at once. Depth first: one, and one more a depth where the walk still has to
  // come back.
  uint32_t slots() const noexcept { return slots_; }

 private:
  void descend(size_t begin, size_t end, size_t position, uint32_t slot, uint32_t held);
  std::vector<uint32_t> parents() const;
  std::vector<uint32_t> level_order() const;

  const Label* labels_ = nullptr;
  size_t positions_ = 0;
  std::vector<uint32_t> order_;
  std::vector<PlannedRun> runs_;
  uint32_t slots_ = 0;
};

}  // namespace cooperllm
