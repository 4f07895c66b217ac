// Slopes of the loss along directions in the head alone, without differences: the method `head_gradient` gives the
// gradient of a batch's loss by the head's tensors in one run, from quantities that a forward pass has anyway.
#include <cmath>
#include <cstring>

#include "local_update.h"
#include "stopwatch.h"

namespace cooperllm {

zo_status Chain::run_head_gradient(size_t from_slot, const double* weights, double* sum) noexcept {
  ++counters.segment_runs[shape_.segments];
  std::memset(row_targets_.data(), 0, size_t{shape_.batch_examples} * classes_ * sizeof(float));
  for (uint32_t row = 0; row < shape_.batch_examples; ++row) {
    const float weight = static_cast<float>(weights[row]);
    row_weights_.as<float>()[row] = weight;
    row_targets_.as<float>()[size_t{row} * classes_ + static_cast<size_t>(labels_.as<int64_t>()[row])] = weight;
  }
  gradient_inputs_[0] = hidden_;
  gradient_inputs_[0].data = slots_[from_slot].data();
  gradient_inputs_[1].sizes[1] = hidden_.sizes[1];
  const size_t tensors = last_tensor(shape_.segments) - first_tensor(shape_.segments);
  const zo_status status = run(head_gradient_, gradient_inputs_, tensors);
  if (status != ZO_OK) return status;
  for (size_t i = 0; i < tensors; ++i) {
    const float* values = static_cast<const float*>(outputs_[i].data);
    for (uint64_t j = 0; j < layout_[first_tensor(shape_.segments) + i].count; ++j) *sum++ += values[j];
  }
  return ZO_OK;
}

zo_status LocalUpdate::slopes(const std::vector<Batch>& batches, const std::vector<Direction>& directions,
                              double epsilon, uint32_t exit_segment, std::vector<double>* rho) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  directions_ = &directions;
  epsilon_ = epsilon;
  const uint32_t head = chain_.shape().segments;
  const size_t parameters = chain_.segment_parameters(head);
  zo_status status = check_idle();
  if (status == ZO_OK) status = check_slopes(directions);
  if (status == ZO_OK) status = check_objective({exit_segment, 0.0});
  if (status == ZO_OK) status = check_batches(batches, objective_.exit_segment);
  if (status == ZO_OK) status = load_for(batches, {false, 0, objective_.exit_segment});
  if (status == ZO_OK) status = chain_.load_head_gradient(&message_);
  if (status != ZO_OK) return status;
  gradient_.assign(parameters, 0.0);
  // As z' = k * 2^-e / epsilon: an adapter of zeros that is perturbed holds k * 2^-e, exactly.
  perturbed_.assign(parameters, 0.0F);
  rho->assign(directions.size(), 0.0);
  status = add_gradients(batches);
  for (size_t d = 0; d < directions.size() && status == ZO_OK; ++d) status = slope_along(directions[d], &(*rho)[d]);
  return status;
}

zo_status LocalUpdate::check_slopes(const std::vector<Direction>& directions) {
  const uint32_t head = chain_.shape().segments;
  if (!chain_.has_head_gradient()) {
    return fail(ZO_BAD_ARGUMENT, "the program has no method head_gradient: ask for differences, or export again");
  }
  std::vector<Label> labels;
  for (size_t d = 0; d < directions.size(); ++d) {
    if (directions[d].active_segments != std::vector<uint32_t>{head}) {
      return fail(ZO_BAD_ARGUMENT, "slopes without differences are had of directions in the head alone");
    }
    labels.resize(labels.size() + head + 1, 0);
    labels.back() = static_cast<Label>(d + 1);
  }
  return check_directions(labels);
}

// The gradient of the mean loss, in float64, batch after batch and row by row as the method gives it.
zo_status LocalUpdate::add_gradients(const std::vector<Batch>& batches) noexcept {
  double count = 0.0;
  for (const Batch& batch : batches) {
    zo_status status = forward(batch, objective_.exit_segment);
    if (status == ZO_OK) status = chain_.run_head_gradient(0, batch.weights, gradient_.data());
    if (status != ZO_OK) return status;
    for (uint32_t row = 0; row < chain_.shape().batch_examples; ++row) count += batch.weights[row];
  }
  for (double& value : gradient_) value /= count;
  return ZO_OK;
}

zo_status LocalUpdate::slope_along(const Direction& direction, double* rho) noexcept {
  const uint32_t head = chain_.shape().segments;
  const uint64_t start = chain_.layout()[chain_.first_tensor(head)].offset;
  double sum = 0.0;
  for (size_t i = chain_.first_tensor(head); i < chain_.last_tensor(head); ++i) {
    const TensorSlice& slice = chain_.layout()[i];
    const zo_direction on_slice = on_tensor(direction, slice, 0);
    float* values = perturbed_.data() + (slice.offset - start);
    const auto add = [&](int multiplier) {
      return zo_perturb(values, slice.offset, slice.count, slice.exponent, epsilon_, &on_slice, multiplier);
    };
    zo_status status = add(+1);
    if (status != ZO_OK) return status;
    const double* gradient = gradient_.data() + (slice.offset - start);
    for (uint64_t j = 0; j < slice.count; ++j) sum += gradient[j] * static_cast<double>(values[j]);
    status = add(-1);
    if (status != ZO_OK) return status;
  }
  *rho = sum / epsilon_;
  return std::isfinite(*rho) ? ZO_OK : ZO_LOSS_NOT_FINITE;
}

}  // namespace cooperllm
