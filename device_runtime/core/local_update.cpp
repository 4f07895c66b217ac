#include "local_update.h"

#include <algorithm>
#include <cmath>

#include "stopwatch.h"

namespace cooperllm {
namespace {

size_t direction_of(Label label) noexcept { return static_cast<size_t>(label < 0 ? -label : label) - 1; }

}  // namespace

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

zo_status LocalUpdate::losses(const std::vector<Batch>& batches, const std::vector<Direction>& directions,
                              double epsilon, const std::vector<Label>& labels, Losses* result) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  directions_ = &directions;
  epsilon_ = epsilon;
  zo_status status = check_batches(batches);
  if (status == ZO_OK) status = check_directions(labels);
  if (status == ZO_OK) status = check_entry(batches, labels);
  if (status != ZO_OK) return status;
  const size_t positions = chain_.shape().segments + 1;
  const size_t evaluations = labels.size() / positions;
  plan_.build(labels.data(), evaluations, positions);
  chain_.reserve_slots(plan_.slots());
  result->loss_sum.assign(evaluations, 0.0);
  result->count.assign(evaluations, 0.0);

  status = run_plan(batches, result);
  for (uint32_t segment = 0; segment < positions; ++segment) move_to(segment, 0);
  return status;
}

// Two strings a direction, + and -. Before its boundary a direction bears the label of the first that does the same
// there, so the planner runs that block once for all of them.
zo_status LocalUpdate::label_directions(const std::vector<Direction>& directions,
                                        const std::vector<uint32_t>& active_segments) {
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
                               double epsilon, const std::vector<uint32_t>& active_segments, Measurement* result) {
  message_.clear();
  if (directions.empty()) return fail(ZO_BAD_ARGUMENT, "no direction was given");
  zo_status status = check_segments(active_segments);
  if (status == ZO_OK) status = label_directions(directions, active_segments);
  result->rho.assign(directions.size(), 0.0);
  result->loss_plus.assign(directions.size(), 0.0);
  result->loss_minus.assign(directions.size(), 0.0);
  if (status == ZO_OK) status = losses(batches, directions, epsilon, labels_, &losses_);
  if (status != ZO_OK) return status;
  for (size_t d = 0; d < directions.size(); ++d) {
    result->loss_plus[d] = losses_.loss_sum[2 * d] / losses_.count[2 * d];
    result->loss_minus[d] = losses_.loss_sum[2 * d + 1] / losses_.count[2 * d + 1];
    result->rho[d] = (result->loss_plus[d] - result->loss_minus[d]) / (2.0 * epsilon);
    if (!std::isfinite(result->rho[d])) return fail(ZO_LOSS_NOT_FINITE, "");
  }
  return ZO_OK;
}

zo_status LocalUpdate::run_plan(const std::vector<Batch>& batches, Losses* result) noexcept {
  const uint32_t head = chain_.shape().segments;
  for (const Batch& batch : batches) {
    if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
    zo_status status = enter(batch);
    if (status != ZO_OK) return status;
    for (const PlannedRun& run : plan_.runs()) {
      if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
      if (run.position < batch.first_segment) {  // unperturbed, so the only run at its position: checked before
        if (run.position + 1 == batch.first_segment) chain_.set_hidden(batch.hidden, run.to_slot);
        continue;
      }
      status = move_to(run.position, run.label);
      if (status != ZO_OK) return status;
      if (run.position < head) {
        status = chain_.run_segment(run.position, run.from_slot, run.to_slot);
        if (status != ZO_OK) return status;
        continue;
      }
      HeadResult rows;
      status = chain_.run_head(run.from_slot, &rows);
      if (status != ZO_OK) return status;
      for (uint32_t i = 0; i < run.evaluation_count; ++i) {
        const uint32_t evaluation = plan_.order()[run.first_evaluation + i];
        for (uint32_t row = 0; row < chain_.shape().batch_examples; ++row) {
          const double weight = batch.weights[row];
          if (weight == 0.0) continue;  // padding: whatever stands there, NaN included, counts nothing
          const double loss = rows.loss[row];
          if (!std::isfinite(loss)) return ZO_LOSS_NOT_FINITE;
          result->loss_sum[evaluation] += weight * loss;
          result->count[evaluation] += weight * rows.count[row];
        }
      }
    }
  }
  return ZO_OK;
}

// Takes a batch and makes its first hidden state. The head alone needs nothing that embed makes.
zo_status LocalUpdate::enter(const Batch& batch) noexcept {
  const zo_status status = chain_.set_batch(batch);
  if (status != ZO_OK || batch.first_segment == chain_.shape().segments) return status;
  return chain_.embed(0);
}

// Brings one segment's slice to a label: a sign change takes one pass, everything else goes through the adapter itself.
zo_status LocalUpdate::move_to(uint32_t segment, Label label) noexcept {
  const Label current = at_[segment];
  if (current == label) return ZO_OK;
  const Stopwatch watch(&chain_.counters.perturb_ns);
  if (current == -label) {  // both non-zero
    const zo_status status = add(segment, label, label > 0 ? +2 : -2);
    if (status == ZO_OK) at_[segment] = label;
    return status;
  }
  zo_status status = ZO_OK;
  if (current != 0) status = add(segment, current, current > 0 ? -1 : +1);
  if (status == ZO_OK) at_[segment] = 0;
  if (status == ZO_OK && label != 0) {
    status = add(segment, label, label > 0 ? +1 : -1);
    if (status == ZO_OK) at_[segment] = label;
  }
  return status;
}

zo_status LocalUpdate::add(uint32_t segment, Label label, int multiplier) noexcept {
  const Direction& direction = (*directions_)[direction_of(label)];
  for (size_t i = chain_.first_tensor(segment); i < chain_.last_tensor(segment); ++i) {
    const TensorSlice& slice = chain_.layout()[i];
    const zo_direction on_slice = on_tensor(direction, slice, 0);
    const zo_status status = zo_perturb(chain_.adapter() + slice.offset, slice.offset, slice.count, slice.exponent,
                                        epsilon_, &on_slice, multiplier);
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

// Where the guides lie in a slice, from place `scratch` on; returns how many. Guides that are zero there are left out,
// which changes no bit: z + c * 0 = z.
uint32_t LocalUpdate::gather_guides(const std::vector<GuideTerm>& guides, const TensorSlice& slice,
                                    size_t scratch) noexcept {
  const uint64_t into_segment = slice.offset - chain_.layout()[chain_.first_tensor(slice.segment)].offset;
  uint32_t used = 0;
  for (const GuideTerm& term : guides) {
    const float* values = guides_[term.guide][slice.segment];
    if (values == nullptr) continue;
    guide_pointers_[scratch + used] = values + into_segment;
    guide_coefficients_[scratch + used] = term.coefficient;
    ++used;
  }
  return used;
}

// A direction as the kernels want it: pointers to the slice's first elements.
zo_direction LocalUpdate::on_tensor(const Direction& direction, const TensorSlice& slice, size_t scratch) noexcept {
  zo_direction made{};
  made.seed = direction.seed_in(slice.segment);
  made.isotropic_scale = direction.isotropic_scale;
  made.scale = scale_ == nullptr ? nullptr : scale_ + slice.offset;
  made.guide_count = gather_guides(direction.guides, slice, scratch);
  made.guides = guide_pointers_.data() + scratch;
  made.coefficients = guide_coefficients_.data() + scratch;
  return made;
}

// The hidden state that enters `last` (the head: K), in slot 0.
zo_status LocalUpdate::forward(const Batch& batch, uint32_t last) noexcept {
  if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
  zo_status status = enter(batch);
  if (status == ZO_OK && batch.hidden != nullptr) chain_.set_hidden(batch.hidden, 0);
  for (uint32_t segment = batch.first_segment; segment < last && status == ZO_OK; ++segment) {
    if (stop_.load(std::memory_order_relaxed)) return ZO_STOPPED;
    status = chain_.run_segment(segment, 0, 0);
  }
  return status;
}

zo_status LocalUpdate::run_head(const Batch& batch, HeadResult* result) noexcept {
  const zo_status status = forward(batch, chain_.shape().segments);
  return status == ZO_OK ? chain_.run_head(0, result) : status;
}

zo_status LocalUpdate::evaluate(const std::vector<Batch>& batches, Evaluation* result) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  *result = Evaluation{};
  zo_status status = check_batches(batches);
  for (size_t b = 0; b < batches.size() && status == ZO_OK; ++b) {
    HeadResult rows;
    status = run_head(batches[b], &rows);
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
  zo_status status = check_batches({batch});
  if (status == ZO_OK && chain_.targets_are_tokens()) {
    status = fail(ZO_BAD_ARGUMENT, "a language model's head gives losses, not logits");
  }
  if (status == ZO_OK) status = run_head(batch, &rows);
  if (status != ZO_OK) return status;
  std::copy_n(rows.logits, size_t{chain_.shape().batch_examples} * chain_.classes(), out);
  return ZO_OK;
}

zo_status LocalUpdate::hidden(const Batch& batch, uint32_t segment, float* out) {
  const Stopwatch watch(&chain_.counters.total_ns);
  message_.clear();
  zo_status status = check_batches({batch});
  if (status == ZO_OK && (segment > chain_.shape().segments || segment < batch.first_segment)) {
    status = fail(ZO_BAD_ARGUMENT, "hidden states are had from the batch's first segment on, up to the head");
  }
  if (status == ZO_OK) status = forward(batch, segment);
  if (status != ZO_OK) return status;
  const size_t values = size_t{chain_.shape().batch_examples} * batch.tokens * chain_.shape().hidden_size;
  std::copy_n(chain_.hidden(0), values, out);
  return ZO_OK;
}

}  // namespace cooperllm
