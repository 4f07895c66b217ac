// Both signs of a direction in one forward (see Chain::run_pair). What is perturbed is a copy of the slices, so the
// adapter itself stays as it is but for the head, which is run once a sign.
#include "local_update.h"

namespace cooperllm {

// The first segment that directions perturb, where evaluations 2d and 2d + 1 are the two signs of one direction, all
// begin to differ at that segment and there each in its own way; else exit_segment, from which on nothing is paired.
uint32_t LocalUpdate::pair_start(const std::vector<Label>& labels) const noexcept {
  const size_t positions = chain_.shape().segments + 1, evaluations = labels.size() / positions;
  const uint32_t none = objective_.exit_segment;
  if (pair_tokens_ == 0 || evaluations % 2 != 0) return none;
  uint32_t start = none;
  for (size_t e = 0; e < evaluations; e += 2) {
    const Label *plus = labels.data() + e * positions, *minus = plus + positions;
    uint32_t first = none;
    for (uint32_t k = static_cast<uint32_t>(positions); k-- > 0;) {
      if (minus[k] != -plus[k]) return none;
      if (plus[k] != 0 && k < none) first = k;
    }
    if (first == none || (e > 0 && first != start)) return none;
    start = first;
    for (size_t before = 0; before < e; ++before) {  // a shared block would run again for each direction
      const Label other = labels[before * positions + start];
      if (other == plus[start] || other == minus[start]) return none;
    }
  }
  return chain_.has_pairs(start, none) ? start : none;
}

// Decides for which batches both signs run together, and makes what they need.
void LocalUpdate::plan_pairs(const std::vector<Batch>& batches, const std::vector<Label>& labels, Needs* needs) {
  pair_segment_ = pair_start(labels);
  size_t paired = 0;
  for (const Batch& batch : batches) paired += is_paired(batch) ? 1 : 0;
  if (paired == 0) return;
  needs->pair_segment = pair_segment_;
  needs->singles = paired < batches.size();
  chain_.reserve_pairs(pair_segment_, objective_.exit_segment);
}

zo_status LocalUpdate::run_pairs(const Batch& batch, const std::vector<Label>& labels, Losses* result) noexcept {
  const uint32_t head = chain_.shape().segments;
  const size_t positions = head + 1;
  zo_status status = ZO_OK;
  for (uint32_t k = 0; k < positions && status == ZO_OK; ++k) status = move_to(k, 0);
  if (status == ZO_OK) status = enter(batch, objective_.exit_segment);
  if (status == ZO_OK) status = run_prefix(batch, pair_segment_);
  for (size_t e = 0; e * positions < labels.size() && status == ZO_OK; e += 2) {
    const Label* row = labels.data() + e * positions;
    chain_.set_pair_hidden(0);
    for (uint32_t k = pair_segment_; k < objective_.exit_segment && status == ZO_OK; ++k) {
      if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
      status = fill_pair(k, row[k]);
      if (status == ZO_OK) status = chain_.run_pair(k);
    }
    for (uint32_t half = 0; half < 2 && status == ZO_OK; ++half) {
      HeadResult rows;
      chain_.take_half(static_cast<int>(half), 1);
      branch_is_current_ = false;
      status = move_to(head, half == 0 ? row[head] : -row[head]);
      if (status == ZO_OK) status = run_head(1, &rows);
      if (status == ZO_OK) status = add_losses(batch, rows, static_cast<uint32_t>(e) + half, result);
    }
  }
  return status;
}

}  // namespace cooperllm
