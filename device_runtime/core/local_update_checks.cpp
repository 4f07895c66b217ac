// The first part of a call of LocalUpdate: everything that can be refused is refused here, in words, before the first
// add.
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

zo_status LocalUpdate::check_objective(const Objective& objective) {
  const uint32_t segments = chain_.shape().segments;
  if (objective.exit_segment > segments) {
    return fail(ZO_BAD_ARGUMENT, "exit_segment is " + std::to_string(objective.exit_segment) + ": use 1 to " +
                                     std::to_string(segments) + ", or 0 for the whole chain");
  }
  if (!std::isfinite(objective.global_weight) || objective.global_weight < 0.0) {
    return fail(ZO_BAD_ARGUMENT, "global_weight must be finite and not negative");
  }
  if (objective.global_weight > 0.0 && !chain_.has_auxiliaries()) {
    return fail(ZO_BAD_ARGUMENT,
                "the program has no auxiliary branch: use global_weight 0, or a bundle exported with bottlenecks");
  }
  objective_ = objective;
  if (objective_.exit_segment == 0) objective_.exit_segment = segments;
  return ZO_OK;
}

zo_status LocalUpdate::check_batches(const std::vector<Batch>& batches, uint32_t exit_segment) {
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
    if (batch.first_segment > exit_segment) {
      return fail(ZO_BAD_ARGUMENT, "a batch enters at segment " + std::to_string(batch.first_segment) +
                                       ", behind the last one that runs");
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
  const zo_status known = reserve_guides(*directions_);
  if (known != ZO_OK) return known;
  for (size_t d = 0; d < directions_->size(); ++d) {
    const zo_status status = check_direction(d, used[d]);
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

// Checks that all guides of these directions are known, and makes room to gather one direction's.
zo_status LocalUpdate::reserve_guides(const std::vector<Direction>& directions) {
  size_t most_guides = 0;
  for (const Direction& direction : directions) {
    const zo_status status = check_guides(direction.guides);
    if (status != ZO_OK) return status;
    most_guides = std::max(most_guides, direction.guides.size());
  }
  guide_pointers_.resize(most_guides);
  guide_coefficients_.resize(most_guides);
  return ZO_OK;
}

// Before a hidden state that was handed in and behind the exit nothing runs: a perturbation there would be left out in
// silence.
zo_status LocalUpdate::check_entry(const std::vector<Batch>& batches, const std::vector<Label>& labels) {
  const size_t positions = chain_.shape().segments + 1;
  uint32_t latest = 0;
  for (const Batch& batch : batches) latest = std::max(latest, batch.first_segment);
  for (size_t i = 0; i < labels.size(); ++i) {
    if (i % positions < latest && labels[i] != 0) {
      return fail(ZO_BAD_ARGUMENT, "a direction perturbs a segment before a batch's hidden state");
    }
    const size_t position = i % positions;
    if (position >= objective_.exit_segment && position + 1 < positions && labels[i] != 0) {
      return fail(ZO_BAD_ARGUMENT, "a direction perturbs segment " + std::to_string(position) +
                                       ", which does not run: the head takes what leaves segment " +
                                       std::to_string(objective_.exit_segment - 1));
    }
  }
  return ZO_OK;
}

zo_status LocalUpdate::squared_norms(size_t direction, const std::vector<bool>& segments, double epsilon, double* error,
                                     double* norm) noexcept {
  *error = *norm = 0.0;
  for (uint32_t segment = 0; segment <= chain_.shape().segments; ++segment) {
    if (!segments[segment]) continue;
    const zo_status status = add_squares(direction, segment, epsilon, error, norm);
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

// Adds |z' - z|^2 and |z|^2 of one segment, tensor after tensor: sums over segments in order have the same bits
// whenever each segment's turn comes.
zo_status LocalUpdate::add_squares(size_t direction, uint32_t segment, double epsilon, double* error,
                                   double* norm) noexcept {
  const Stopwatch watch(&chain_.counters.segment_check_ns[segment]);
  for (size_t i = chain_.first_tensor(segment); i < chain_.last_tensor(segment); ++i) {
    const TensorSlice& slice = chain_.layout()[i];
    double lanes_error[8] = {}, lanes_norm[8] = {};
    const zo_direction on_slice = on_tensor((*directions_)[direction], slice, 0);
    const zo_status status =
        zo_check_direction(slice.offset, slice.count, slice.exponent, epsilon, &on_slice, lanes_error, lanes_norm);
    if (status != ZO_OK) return status;
    zo_add_lanes(lanes_error, lanes_norm, slice.exponent, error, norm);
  }
  return ZO_OK;
}

std::string LocalUpdate::below_grid(size_t direction, double enough, int doublings) {
  return "direction " + std::to_string(direction) + ": rounding changes it by over 2 %: use epsilon " + quoted(enough) +
         ", or exponents higher by " + std::to_string(doublings);
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
    return fail(status, below_grid(direction, enough, doublings));
  }
}

}  // namespace cooperllm
