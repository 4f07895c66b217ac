// The first part of a call of LocalUpdate: everything that can be refused is refused here, in words, before the first
// add; and the step, whose slices are all checked before the first is written.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "local_update.h"
#include "stopwatch.h"

namespace cooperllm {
namespace {

std::string quoted(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

}  // namespace

zo_status LocalUpdate::fail(zo_status status, std::string message) {
  message_ = std::move(message);
  return status;
}

zo_status LocalUpdate::check_segments(const std::vector<uint32_t>& segments) {
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i] > chain_.shape().segments || (i > 0 && segments[i] <= segments[i - 1])) {
      return fail(ZO_BAD_ARGUMENT, "active_segments must ascend and end at the head's number " +
                                       std::to_string(chain_.shape().segments));
    }
  }
  return ZO_OK;
}

zo_status LocalUpdate::check_batches(const std::vector<Batch>& batches) {
  if (batches.empty()) return fail(ZO_BAD_ARGUMENT, "no batch was given");
  bool any = false;  // target that counts
  for (const Batch& batch : batches) {
    if (batch.tokens == 0 || batch.tokens > chain_.shape().max_tokens) {
      return fail(ZO_BAD_ARGUMENT, "a batch has " + std::to_string(batch.tokens) +
                                       " tokens a row; the program takes 1 to " +
                                       std::to_string(chain_.shape().max_tokens));
    }
    if (batch.hidden == nullptr ? batch.first_segment != 0
                                : batch.first_segment == 0 || batch.first_segment > chain_.shape().segments) {
      return fail(ZO_BAD_ARGUMENT, "a batch's hidden state must come with the segment that it enters, 1 to " +
                                       std::to_string(chain_.shape().segments));
    }
    for (uint32_t row = 0; row < chain_.shape().batch_examples; ++row) {
      const double weight = batch.weights[row];
      if (!std::isfinite(weight) || weight < 0.0) {
        return fail(ZO_BAD_ARGUMENT, "a row's weight is negative or not finite");
      }
    }
    const zo_status status = check_labels(batch, &any);
    if (status != ZO_OK) return status;
  }
  if (any) return ZO_OK;
  return fail(ZO_BAD_ARGUMENT,
              chain_.targets_are_tokens() ? "no token of a row with a weight has a target" : "every row has weight 0");
}

zo_status LocalUpdate::check_labels(const Batch& batch, bool* any) {
  const bool tokens = chain_.targets_are_tokens();
  for (size_t i = 0; i < chain_.labels(batch); ++i) {
    if (!chain_.is_label(batch.labels[i])) {
      const uint32_t count = tokens ? chain_.shape().vocabulary : chain_.classes();
      return fail(ZO_BAD_ARGUMENT, "label " + std::to_string(batch.labels[i]) + " is outside the " +
                                       std::to_string(count) + (tokens ? " tokens" : " classes"));
    }
    *any = *any || (batch.labels[i] != kNoTarget && batch.weights[tokens ? i / batch.tokens : i] > 0.0);
  }
  return ZO_OK;
}

zo_status LocalUpdate::check_guides(const std::vector<GuideTerm>& guides) {
  for (const GuideTerm& term : guides) {
    if (term.guide >= guides_.size()) {
      return fail(ZO_BAD_ARGUMENT, "guide " + std::to_string(term.guide) + " was never set");
    }
  }
  return ZO_OK;
}

zo_status LocalUpdate::check_directions(const std::vector<Label>& labels) {
  const size_t positions = chain_.shape().segments + 1;
  if (labels.empty() || labels.size() % positions != 0) {
    return fail(ZO_BAD_ARGUMENT, "labels must be one row of " + std::to_string(positions) + " an evaluation");
  }
  std::vector<std::vector<bool>> used(directions_->size(), std::vector<bool>(positions, false));
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == 0) continue;
    const uint64_t direction = static_cast<uint64_t>(labels[i] < 0 ? -int64_t{labels[i]} : int64_t{labels[i]}) - 1;
    if (direction >= directions_->size()) {
      return fail(ZO_BAD_ARGUMENT, "label " + std::to_string(labels[i]) + " names no direction");
    }
    used[direction][i % positions] = true;
  }
  size_t most_guides = 0;
  for (const Direction& direction : *directions_) {
    const zo_status status = check_guides(direction.guides);
    if (status != ZO_OK) return status;
    most_guides = std::max(most_guides, direction.guides.size());
  }
  guide_pointers_.resize(most_guides);
  guide_coefficients_.resize(most_guides);
  for (size_t d = 0; d < directions_->size(); ++d) {
    const zo_status status = check_direction(d, used[d]);
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

// Before a hidden state that was handed in, nothing runs: a perturbation there would be left out in silence.
zo_status LocalUpdate::check_entry(const std::vector<Batch>& batches, const std::vector<Label>& labels) {
  const size_t positions = chain_.shape().segments + 1;
  uint32_t latest = 0;
  for (const Batch& batch : batches) latest = std::max(latest, batch.first_segment);
  for (size_t i = 0; i < labels.size(); ++i) {
    if (i % positions < latest && labels[i] != 0) {
      return fail(ZO_BAD_ARGUMENT, "a direction perturbs a segment before a batch's hidden state");
    }
  }
  return ZO_OK;
}

zo_status LocalUpdate::squared_norms(size_t direction, const std::vector<bool>& segments, double epsilon, double* error,
                                     double* norm) noexcept {
  *error = *norm = 0.0;
  for (const TensorSlice& slice : chain_.layout()) {
    if (!segments[slice.segment]) continue;
    double lanes_error[8] = {}, lanes_norm[8] = {};
    const zo_direction on_slice = on_tensor((*directions_)[direction], slice, 0);
    const zo_status status =
        zo_check_direction(slice.offset, slice.count, slice.exponent, epsilon, &on_slice, lanes_error, lanes_norm);
    if (status != ZO_OK) return status;
    zo_add_lanes(lanes_error, lanes_norm, slice.exponent, error, norm);
  }
  return ZO_OK;
}

// Refuses what leaves the range or drowns in the grid. Doubling epsilon rounds exactly as raising every exponent by one
// does, so one search names both remedies.
zo_status LocalUpdate::check_direction(size_t direction, const std::vector<bool>& segments) {
  double error = 0.0, norm = 0.0;
  const std::string name = "direction " + std::to_string(direction) + ": ";
  zo_status status = squared_norms(direction, segments, epsilon_, &error, &norm);
  if (status != ZO_OK) return fail(status, name + zo_status_message(status));
  status = zo_judge_direction(error, norm);
  if (status == ZO_OK) return status;
  for (int doublings = 1;; ++doublings) {
    const double enough = std::ldexp(epsilon_, doublings);
    if (squared_norms(direction, segments, enough, &error, &norm) != ZO_OK) {
      return fail(status, name + "rounding changes it by over 2 % at every epsilon in range: flatten it");
    }
    if (zo_judge_direction(error, norm) != ZO_OK) continue;
    return fail(status, name + "rounding changes it by over 2 %: use epsilon " + quoted(enough) +
                            ", or exponents higher by " + std::to_string(doublings));
  }
}

bool LocalUpdate::covers(const Direction& direction, const std::vector<uint32_t>& all,
                         uint32_t segment) const noexcept {
  for (const uint32_t active : *segments_of(direction, &all)) {
    if (active == segment) return true;
  }
  return false;
}

zo_status LocalUpdate::update(const Update& update, uint64_t* clamped) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  *clamped = 0;
  if (update.coefficients.size() != update.directions.size()) {
    return fail(ZO_BAD_ARGUMENT, std::to_string(update.coefficients.size()) + " coefficients for " +
                                     std::to_string(update.directions.size()) + " directions: give one each");
  }
  zo_status status = check_segments(update.active_segments);
  if (status == ZO_OK) status = check_guides(update.guides);
  size_t terms = update.guides.size();
  for (size_t d = 0; d < update.directions.size() && status == ZO_OK; ++d) {
    status = check_segments(update.directions[d].active_segments);
    if (status == ZO_OK) status = check_guides(update.directions[d].guides);
    terms += update.directions[d].guides.size();
  }
  if (status != ZO_OK) return status;
  guide_pointers_.resize(terms);
  guide_coefficients_.resize(terms);
  step_directions_.resize(update.directions.size());
  step_coefficients_.resize(update.directions.size());

  for (const bool write : {false, true}) {  // all slices are checked before the first is written
    for (const TensorSlice& slice : chain_.layout()) {
      if (!covers(Direction{}, update.active_segments, slice.segment)) continue;
      const zo_step step = step_on(update, slice);
      status =
          write ? zo_update(chain_.adapter() + slice.offset, slice.offset, slice.count, slice.exponent, &step, clamped)
                : zo_check_update(slice.offset, slice.count, slice.exponent, &step);
      if (status != ZO_OK) return status;
    }
  }
  return ZO_OK;
}

// The directions and guides that are active in a slice, in the order of the update.
zo_step LocalUpdate::step_on(const Update& update, const TensorSlice& slice) noexcept {
  size_t scratch = 0;
  uint32_t directions = 0;
  for (size_t d = 0; d < update.directions.size(); ++d) {
    if (!covers(update.directions[d], update.active_segments, slice.segment)) continue;
    step_directions_[directions] = on_tensor(update.directions[d], slice, scratch);
    step_coefficients_[directions] = update.coefficients[d];
    scratch += step_directions_[directions++].guide_count;
  }
  zo_step step{};
  step.epsilon = update.epsilon;
  step.seed = update.update_seed;
  step.direction_count = directions;
  step.directions = step_directions_.data();
  step.coefficients = step_coefficients_.data();
  step.guide_count = gather_guides(update.guides, slice, scratch);
  step.guides = guide_pointers_.data() + scratch;
  step.guide_coefficients = guide_coefficients_.data() + scratch;
  return step;
}

}  // namespace cooperllm
