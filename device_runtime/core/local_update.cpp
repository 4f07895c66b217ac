#include "local_update.h"

#include <algorithm>
#include <cmath>

#include "stopwatch.h"

namespace cooperllm {

// Whether two directions perturb every segment before their boundary alike.
bool Direction::same_prefix(const Direction& other) const noexcept {
  const auto same_term = [](const GuideTerm& a, const GuideTerm& b) {
    return a.guide == b.guide && a.coefficient == b.coefficient;
  };
  return boundary == other.boundary && prefix_seed == other.prefix_seed && isotropic_scale == other.isotropic_scale &&
         active_segments == other.active_segments &&
         std::equal(guides.begin(), guides.end(), other.guides.begin(), other.guides.end(), same_term);
}

zo_status LocalUpdate::load(std::unique_ptr<Program> program, const ChainShape& shape,
                            const std::vector<TensorSlice>& layout) {
  program_ = std::move(program);
  message_.clear();
  const zo_status status = chain_.load(program_.get(), shape, layout, &message_);
  at_.assign(shape.segments + 1, 0);
  for (std::vector<double>* rows : {&local_loss_, &local_count_, &local_correct_}) {
    rows->assign(shape.batch_examples, 0.0);
  }
  return status;
}

zo_status LocalUpdate::set_guide(uint32_t index, uint32_t segment, const float* values) {
  message_.clear();
  const size_t segments = chain_.shape().segments + 1;
  if (segment >= segments || index >= kMaxGuides) {
    return fail(ZO_BAD_ARGUMENT, "guide " + std::to_string(index) + ", segment " + std::to_string(segment) +
                                     ": there are " + std::to_string(segments) + " segments and at most " +
                                     std::to_string(kMaxGuides) + " guides");
  }
  if (index >= guides_.size()) guides_.resize(index + 1, std::vector<const float*>(segments, nullptr));
  guides_[index][segment] = values;
  return ZO_OK;
}

zo_status LocalUpdate::clear_guide(uint32_t index, uint32_t segment) {
  message_.clear();
  if (index >= guides_.size() || segment > chain_.shape().segments) {
    return fail(ZO_BAD_ARGUMENT,
                "guide " + std::to_string(index) + " was never set in segment " + std::to_string(segment));
  }
  guides_[index][segment] = nullptr;
  return ZO_OK;
}

zo_status LocalUpdate::clear_guides(uint32_t expected) {
  message_.clear();
  const zo_status status = check_idle();
  if (status != ZO_OK) return status;
  if (expected > kMaxGuides)
    return fail(ZO_BAD_ARGUMENT, "there are at most " + std::to_string(kMaxGuides) + " guides");
  guides_.assign(expected, std::vector<const float*>(chain_.shape().segments + 1, nullptr));
  return ZO_OK;
}

zo_status LocalUpdate::losses(const std::vector<Batch>& batches, const std::vector<Direction>& directions,
                              double epsilon, const std::vector<Label>& labels, Losses* result,
                              const Objective& objective) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  directions_ = &directions;
  epsilon_ = epsilon;
  zo_status status = check_idle();
  if (status == ZO_OK) status = check_objective(objective);
  if (status == ZO_OK) status = check_batches(batches, objective_.exit_segment);
  if (status == ZO_OK) status = check_directions(labels);
  if (status == ZO_OK) status = check_entry(batches, labels);
  if (status == ZO_OK) {
    Needs needs{false, 0, objective_.exit_segment, true, has_global()};
    plan_pairs(batches, labels, &needs);
    status = load_for(batches, needs);
  }
  if (status != ZO_OK) return status;
  const size_t positions = chain_.shape().segments + 1;
  const size_t evaluations = labels.size() / positions;
  plan_.build(labels.data(), evaluations, positions);
  branch_slot_ = std::max(plan_.slots(), 2u);
  chain_.reserve_slots(branch_slot_ + (has_global() ? 1 : 0));
  result->loss_sum.assign(evaluations, 0.0);
  result->count.assign(evaluations, 0.0);

  for (size_t b = 0; b < batches.size() && status == ZO_OK; ++b) {
    status = is_paired(batches[b]) ? run_pairs(batches[b], labels, result) : run_plan(batches[b], result);
  }
  for (uint32_t segment = 0; segment < positions; ++segment) move_to(segment, 0);
  return status;
}

// Two strings a direction, + and -. Before its boundary a direction bears the label of the first that does the same
// there, so the planner runs that block once for all of them.
zo_status LocalUpdate::label_directions(const std::vector<Direction>& directions,
                                        const std::vector<uint32_t>& active_segments) {
  if (directions.empty()) return fail(ZO_BAD_ARGUMENT, "no direction was given");
  const zo_status all = check_segments(active_segments);
  if (all != ZO_OK) return all;
  const size_t positions = chain_.shape().segments + 1;
  labels_.assign(2 * directions.size() * positions, 0);
  size_t first = 0;
  for (size_t d = 0; d < directions.size(); ++d) {
    const zo_status status = check_segments(directions[d].active_segments);
    if (status != ZO_OK) return status;
    if (directions[d].boundary == 0 || !directions[d].same_prefix(directions[first])) first = d;
    for (const uint32_t segment : *segments_of(directions[d], &active_segments)) {
      if (chain_.first_tensor(segment) == chain_.last_tensor(segment)) continue;
      const Label label = static_cast<Label>(1 + (segment < directions[d].boundary ? first : d));
      labels_[2 * d * positions + segment] = label;
      labels_[(2 * d + 1) * positions + segment] = -label;
    }
  }
  return ZO_OK;
}

zo_status LocalUpdate::measure(const std::vector<Batch>& batches, const std::vector<Direction>& directions,
                               double epsilon, const std::vector<uint32_t>& active_segments, Measurement* result,
                               const Objective& objective) {
  message_.clear();
  zo_status status = label_directions(directions, active_segments);
  if (status == ZO_OK) status = losses(batches, directions, epsilon, labels_, &losses_, objective);
  return status == ZO_OK ? rho_of(losses_, epsilon, result) : status;
}

// Of losses in the order of label_directions().
zo_status LocalUpdate::rho_of(const Losses& losses, double epsilon, Measurement* result) {
  const size_t directions = losses.loss_sum.size() / 2;
  result->rho.assign(directions, 0.0);
  result->loss_plus.assign(directions, 0.0);
  result->loss_minus.assign(directions, 0.0);
  for (size_t d = 0; d < directions; ++d) {
    result->loss_plus[d] = losses.loss_sum[2 * d] / losses.count[2 * d];
    result->loss_minus[d] = losses.loss_sum[2 * d + 1] / losses.count[2 * d + 1];
    result->rho[d] = (result->loss_plus[d] - result->loss_minus[d]) / (2.0 * epsilon);
    if (!std::isfinite(result->rho[d])) return fail(ZO_LOSS_NOT_FINITE, "");
  }
  return ZO_OK;
}

zo_status LocalUpdate::run_plan(const Batch& batch, Losses* result) noexcept {
  const uint32_t head = chain_.shape().segments;
  if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
  zo_status status = enter(batch, objective_.exit_segment);
  if (status != ZO_OK) return status;
  for (const PlannedRun& run : plan_.runs()) {
    if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
    if (run.position < batch.first_segment) {  // unperturbed, so the only run at its position: checked before
      if (run.position + 1 == batch.first_segment) chain_.set_hidden(batch.hidden, run.to_slot);
      continue;
    }
    // Unperturbed as well, so each of these is its parent's only child, whose state stays in the slot it lies in.
    if (run.position >= objective_.exit_segment && run.position < head) continue;
    status = move_to(run.position, run.label);
    if (status == ZO_OK && run.position < head) {
      status = chain_.run_segment(run.position, run.from_slot, run.to_slot);
      branch_is_current_ = false;
    } else if (status == ZO_OK) {
      HeadResult rows;
      status = run_head(run.from_slot, &rows);
      for (uint32_t i = 0; i < run.evaluation_count && status == ZO_OK; ++i) {
        status = add_losses(batch, rows, plan_.order()[run.first_evaluation + i], result);
      }
    }
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

// Adds what the head said of a batch's rows, in order, to an evaluation.
zo_status LocalUpdate::add_losses(const Batch& batch, const HeadResult& rows, uint32_t evaluation,
                                  Losses* result) noexcept {
  for (uint32_t row = 0; row < chain_.shape().batch_examples; ++row) {
    const double weight = batch.weights[row];
    if (weight == 0.0) continue;  // padding: whatever stands there, NaN included, counts nothing
    const double loss = rows.loss[row];
    if (!std::isfinite(loss)) return ZO_LOSS_NOT_FINITE;
    result->loss_sum[evaluation] += weight * loss;
    result->count[evaluation] += weight * rows.count[row];
  }
  return ZO_OK;
}

}  // namespace cooperllm
