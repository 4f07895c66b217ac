// The calls of LocalUpdate that measure in streaming order: every string of labels at one segment before any at the
// next.
#include <algorithm>
#include <cmath>
#include <utility>

#include "stopwatch.h"
#include "streamed.h"

namespace cooperllm {

LocalUpdate::LocalUpdate() = default;
LocalUpdate::~LocalUpdate() = default;

zo_status LocalUpdate::check_idle() {
  if (streamed_ == nullptr) return ZO_OK;
  return fail(ZO_BAD_ARGUMENT, "a measurement in streaming order has begun: finish or abandon it first");
}

const std::vector<uint32_t>& LocalUpdate::streamed_segments() const noexcept {
  static const std::vector<uint32_t> none;
  return streamed_ == nullptr ? none : streamed_->segments;
}

void LocalUpdate::abandon() noexcept {
  if (streamed_ == nullptr) return;
  chain_.release_apart();
  directions_ = nullptr;
  streamed_.reset();
}

zo_status LocalUpdate::begin(const std::vector<Batch>& batches, const std::vector<Direction>& directions,
                             double epsilon, const std::vector<uint32_t>& active_segments, const Objective& objective) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  zo_status status = check_idle();
  if (status != ZO_OK) return status;
  try {
    streamed_ = std::make_unique<Streamed>();
    streamed_->batches = batches;
    streamed_->directions = directions;
    streamed_->epsilon = epsilon;
    status = prepare(active_segments, objective);
    if (status == ZO_OK) status = enter_all();
  } catch (...) {
    abandon();
    throw;
  }
  if (status != ZO_OK) abandon();
  return status;
}

// Everything that can be refused without a guide, the methods, and all memory that advance() needs.
zo_status LocalUpdate::prepare(const std::vector<uint32_t>& active_segments, const Objective& objective) {
  Streamed& call = *streamed_;
  zo_status status = label_directions(call.directions, active_segments);
  call.labels = labels_;
  if (status == ZO_OK) status = check_objective(objective);
  call.objective = objective_;
  if (status == ZO_OK) status = check_batches(call.batches, objective_.exit_segment);
  if (status == ZO_OK) status = reserve_guides(call.directions);
  if (status == ZO_OK) status = check_streamed_scalars();
  if (status == ZO_OK) status = check_entry(call.batches, call.labels);
  const uint32_t head = chain_.shape().segments, exit = objective_.exit_segment;
  if (status == ZO_OK) status = load_for(call.batches, {false, 0, exit, true, has_global()});
  if (status != ZO_OK) return status;
  uint32_t first = exit;
  for (const Batch& batch : call.batches) first = std::min(first, batch.first_segment);
  for (uint32_t k = first; k < exit; ++k) call.segments.push_back(k);
  call.segments.push_back(head);
  const size_t evaluations = 2 * call.directions.size();
  call.plan.build_by_level(call.labels.data(), evaluations, head + 1);
  call.losses.loss_sum.assign(evaluations, 0.0);
  call.losses.count.assign(evaluations, 0.0);
  for (std::vector<double>* sums : {&call.error, &call.norm, &call.worst_error}) {
    sums->assign(call.directions.size(), 0.0);
  }
  chain_.reserve_apart(call.batches, call.plan.slots());
  return ZO_OK;
}

// What zo_check_direction would say of epsilon, scale and coefficients, before any guide is there.
zo_status LocalUpdate::check_streamed_scalars() {
  for (size_t d = 0; d < streamed_->directions.size(); ++d) {
    const Direction& direction = streamed_->directions[d];
    bool good = streamed_->epsilon > 0.0 && std::isfinite(streamed_->epsilon);
    good = good && std::isfinite(direction.isotropic_scale);
    for (const GuideTerm& term : direction.guides) good = good && std::isfinite(term.coefficient);
    if (!good)
      return fail(ZO_BAD_ARGUMENT, "direction " + std::to_string(d) + ": " + zo_status_message(ZO_BAD_ARGUMENT));
  }
  return ZO_OK;
}

// The first hidden state of every batch: embedded, or the one that it brings.
zo_status LocalUpdate::enter_all() {
  for (size_t b = 0; b < streamed_->batches.size(); ++b) {
    const Batch& batch = streamed_->batches[b];
    if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
    zo_status status = chain_.set_batch(batch, 1 + b);
    if (status == ZO_OK && (batch.hidden == nullptr || batch.first_segment < objective_.exit_segment)) {
      status = chain_.embed_apart(b);
    }
    if (status != ZO_OK) return status;
    if (batch.hidden != nullptr) chain_.set_hidden(batch.hidden, chain_.apart_slot(b));
  }
  return ZO_OK;
}

zo_status LocalUpdate::advance() {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  if (streamed_ == nullptr) return fail(ZO_BAD_ARGUMENT, "no measurement in streaming order has begun");
  if (streamed_->next == streamed_->segments.size()) {
    return fail(ZO_BAD_ARGUMENT, "every segment has run: finish the measurement");
  }
  directions_ = &streamed_->directions;  // what another call may have left otherwise in between
  epsilon_ = streamed_->epsilon;
  objective_ = streamed_->objective;
  branch_slot_ = 1;
  const uint32_t segment = streamed_->segments[streamed_->next];
  zo_status status = stop_.load(std::memory_order_relaxed) ? ZO_STOPPED : ZO_OK;
  const uint32_t branch = has_global() ? objective_.exit_segment : chain_.shape().segments;
  if (status == ZO_OK) status = chain_.load_segment(segment, branch, &message_);
  if (status == ZO_OK) status = check_level(segment);
  if (status == ZO_OK) status = run_level(segment);
  move_to(segment, 0);
  if (status == ZO_OK) {
    ++streamed_->next;
  } else {
    abandon();
  }
  return status;
}

// This segment's slices of every direction that is perturbed there under its own name, before the first add.
zo_status LocalUpdate::check_level(uint32_t segment) {
  const size_t positions = chain_.shape().segments + 1;
  double worst_error = 0.0;  // half a step a parameter
  for (size_t i = chain_.first_tensor(segment); i < chain_.last_tensor(segment); ++i) {
    const TensorSlice& slice = chain_.layout()[i];
    worst_error += std::ldexp(static_cast<double>(slice.count), -2 * (slice.exponent + 1));
  }
  for (size_t d = 0; d < streamed_->directions.size(); ++d) {
    if (streamed_->labels[2 * d * positions + segment] != static_cast<Label>(d + 1)) continue;
    streamed_->worst_error[d] += worst_error;
    const zo_status status = add_squares(d, segment, epsilon_, &streamed_->error[d], &streamed_->norm[d]);
    if (status != ZO_OK) return fail(status, "direction " + std::to_string(d) + ": " + zo_status_message(status));
  }
  return ZO_OK;
}

zo_status LocalUpdate::run_level(uint32_t segment) noexcept {
  const std::vector<PlannedRun>& runs = streamed_->plan.runs();
  size_t first = 0;
  while (runs[first].position < segment) ++first;
  size_t last = first;
  while (last < runs.size() && runs[last].position == segment) ++last;
  if (segment == chain_.shape().segments) return run_heads(first, last);
  zo_status status = ZO_OK;
  for (size_t next = first; first < last && status == ZO_OK; first = next) {
    while (next < last && runs[next].label == runs[first].label) ++next;
    status = run_label(first, next);
  }
  return status;
}

// The runs of one label, for every batch: one perturbation serves them all.
zo_status LocalUpdate::run_label(size_t first_run, size_t last_run) noexcept {
  const PlannedRun& first = streamed_->plan.runs()[first_run];
  zo_status status = move_to(first.position, first.label);
  for (size_t b = 0; b < streamed_->batches.size() && status == ZO_OK; ++b) {
    if (first.position < streamed_->batches[b].first_segment) continue;
    status = chain_.set_batch(streamed_->batches[b], 1 + b);
    for (size_t i = first_run; i < last_run && status == ZO_OK; ++i) {
      const PlannedRun& run = streamed_->plan.runs()[i];
      if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
      const size_t slots = chain_.apart_slot(b);
      status = chain_.run_segment(run.position, slots + run.from_slot, slots + run.to_slot);
    }
  }
  return status;
}

zo_status LocalUpdate::run_heads(size_t first_run, size_t last_run) noexcept {
  zo_status status = ZO_OK;
  for (size_t b = 0; b < streamed_->batches.size() && status == ZO_OK; ++b) {
    const Batch& batch = streamed_->batches[b];
    status = chain_.set_batch(batch, 1 + b);
    for (size_t i = first_run; i < last_run && status == ZO_OK; ++i) {
      const PlannedRun& run = streamed_->plan.runs()[i];
      if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
      if (i == first_run || run.from_slot != streamed_->plan.runs()[i - 1].from_slot) branch_is_current_ = false;
      status = move_to(run.position, run.label);
      HeadResult rows;
      if (status == ZO_OK) status = run_head(chain_.apart_slot(b) + run.from_slot, &rows);
      for (uint32_t e = 0; e < run.evaluation_count && status == ZO_OK; ++e) {
        status = add_losses(batch, rows, streamed_->plan.order()[run.first_evaluation + e], &streamed_->losses);
      }
    }
  }
  return status;
}

zo_status LocalUpdate::finish(Measurement* result) {
  message_.clear();
  if (streamed_ == nullptr) return fail(ZO_BAD_ARGUMENT, "no measurement in streaming order has begun");
  if (streamed_->next < streamed_->segments.size()) {
    return fail(ZO_BAD_ARGUMENT,
                "segment " + std::to_string(streamed_->segments[streamed_->next]) + " has not run: advance first");
  }
  zo_status status = judge_streamed();
  if (status == ZO_OK) status = rho_of(streamed_->losses, streamed_->epsilon, result);
  abandon();
  return status;
}

// The guides are gone, so the epsilon that is named is one that does whatever rounding would then take.
zo_status LocalUpdate::judge_streamed() {
  for (size_t d = 0; d < streamed_->directions.size(); ++d) {
    const double norm = streamed_->norm[d];
    const zo_status status = zo_judge_direction(streamed_->error[d], norm);
    if (status == ZO_OK) continue;
    double enough = streamed_->epsilon;
    int doublings = 0;
    while (zo_judge_direction(std::ldexp(streamed_->worst_error[d], -2 * doublings), norm) != ZO_OK && doublings < 64) {
      enough = std::ldexp(streamed_->epsilon, ++doublings);
    }
    return fail(status, below_grid(d, enough, doublings));
  }
  return ZO_OK;
}

}  // namespace cooperllm
