// The calls of LocalUpdate that only run the chain, and the runs that all calls share.
#include <algorithm>
#include <cmath>

#include "local_update.h"
#include "stopwatch.h"

namespace cooperllm {

// Has everything in memory that these batches run, before the loop: nothing there may allocate.
zo_status LocalUpdate::load_for(const std::vector<Batch>& batches, Needs needs) {
  needs.first_segment = needs.exit_segment;
  for (const Batch& batch : batches) {
    needs.embed = needs.embed || batch.hidden == nullptr || batch.first_segment < needs.exit_segment;
    needs.first_segment = std::min(needs.first_segment, batch.first_segment);
  }
  return chain_.load_methods(needs, &message_);
}

zo_status LocalUpdate::load_methods() {
  message_.clear();
  return chain_.load_methods({true, 0, chain_.shape().segments, true}, &message_);
}

// Takes a batch and makes its first hidden state. Where no segment before `last` runs, nothing is needed of embed.
zo_status LocalUpdate::enter(const Batch& batch, uint32_t last) noexcept {
  branch_is_current_ = false;
  const zo_status status = chain_.set_batch(batch);
  if (status != ZO_OK || (batch.hidden != nullptr && batch.first_segment >= last)) return status;
  return chain_.embed(0);
}

// The hidden state that enters `last`, in slot 0.
zo_status LocalUpdate::forward(const Batch& batch, uint32_t last) noexcept {
  if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
  const zo_status status = enter(batch, last);
  return status == ZO_OK ? run_prefix(batch, last) : status;
}

zo_status LocalUpdate::run_prefix(const Batch& batch, uint32_t last) noexcept {
  if (batch.hidden != nullptr) chain_.set_hidden(batch.hidden, 0);
  zo_status status = ZO_OK;
  for (uint32_t segment = batch.first_segment; segment < last && status == ZO_OK; ++segment) {
    if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
    status = chain_.run_segment(segment, 0, 0);
  }
  return status;
}

// What the head says of a slot's rows, by the call's objective.
zo_status LocalUpdate::run_head(size_t slot, HeadResult* rows) noexcept {
  const zo_status status = chain_.run_head(slot, rows);
  return status == ZO_OK && has_global() ? add_global(slot, rows) : status;
}

// Adds global_weight times the head's losses behind the branch. Without a method in it the branch is the identity, and
// the head would say the same again.
zo_status LocalUpdate::add_global(size_t slot, HeadResult* rows) noexcept {
  const uint32_t count = chain_.shape().batch_examples;
  std::copy_n(rows->loss, count, local_loss_.begin());
  std::copy_n(rows->count, count, local_count_.begin());
  std::copy_n(rows->correct, count, local_correct_.begin());
  HeadResult global = *rows;
  if (chain_.has_auxiliaries(objective_.exit_segment)) {
    zo_status status = ZO_OK;
    for (uint32_t k = objective_.exit_segment; k < chain_.shape().segments && !branch_is_current_; ++k) {
      if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
      status = chain_.run_auxiliary(k, k == objective_.exit_segment ? slot : branch_slot_, branch_slot_);
      if (status != ZO_OK) return status;
    }
    branch_is_current_ = true;
    if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
    status = chain_.run_head(branch_slot_, &global);
    if (status != ZO_OK) return status;
  }
  for (uint32_t row = 0; row < count; ++row) local_loss_[row] += objective_.global_weight * global.loss[row];
  *rows = {local_loss_.data(), local_count_.data(), local_correct_.data(), nullptr};
  return ZO_OK;
}

zo_status LocalUpdate::evaluate(const std::vector<Batch>& batches, Evaluation* result, const Objective& objective) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  *result = Evaluation{};
  zo_status status = check_objective(objective);
  if (status == ZO_OK) status = check_batches(batches, objective_.exit_segment);
  if (status == ZO_OK) status = load_for(batches, {false, 0, objective_.exit_segment, true, has_global()});
  branch_slot_ = 1;
  for (size_t b = 0; b < batches.size() && status == ZO_OK; ++b) {
    HeadResult rows;
    status = forward(batches[b], objective_.exit_segment);
    if (status == ZO_OK) status = run_head(0, &rows);
    if (status != ZO_OK) return status;
    for (uint32_t row = 0; row < chain_.shape().batch_examples; ++row) {
      const double weight = batches[b].weights[row];
      if (weight == 0.0) continue;
      const double loss = rows.loss[row];
      if (!std::isfinite(loss)) return ZO_LOSS_NOT_FINITE;
      result->loss_sum += weight * loss;
      result->count += weight * rows.count[row];
      result->correct += static_cast<uint64_t>(rows.correct[row]);
    }
  }
  return status;
}

zo_status LocalUpdate::logits(const Batch& batch, float* out) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  HeadResult rows;
  const uint32_t head = chain_.shape().segments;
  zo_status status = check_batches({batch}, head);
  if (status == ZO_OK && chain_.targets_are_tokens()) {
    status = fail(ZO_BAD_ARGUMENT, "a language model's head gives losses, not logits");
  }
  if (status == ZO_OK) status = load_for({batch}, {false, 0, head, true});
  if (status == ZO_OK) status = forward(batch, head);
  if (status == ZO_OK) status = chain_.run_head(0, &rows);
  if (status != ZO_OK) return status;
  std::copy_n(rows.logits, size_t{chain_.shape().batch_examples} * chain_.classes(), out);
  return ZO_OK;
}

zo_status LocalUpdate::hidden(const Batch& batch, uint32_t segment, float* out) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  zo_status status = check_batches({batch}, chain_.shape().segments);
  if (status == ZO_OK && (segment > chain_.shape().segments || segment < batch.first_segment)) {
    status = fail(ZO_BAD_ARGUMENT, "hidden states are had from the batch's first segment on, up to the head");
  }
  if (status == ZO_OK) status = load_for({batch}, {false, 0, segment});
  if (status == ZO_OK) status = forward(batch, segment);
  if (status != ZO_OK) return status;
  const size_t values = size_t{chain_.shape().batch_examples} * batch.tokens * chain_.shape().hidden_size;
  std::copy_n(chain_.hidden(0), values, out);
  return ZO_OK;
}

}  // namespace cooperllm
