// What LocalUpdate does to the adapter: perturbations in place, and the step, whose slices are all checked before the
// first is written.
#include <cstring>

#include "local_update.h"
#include "stopwatch.h"

namespace cooperllm {
namespace {

size_t direction_of(Label label) noexcept { return static_cast<size_t>(label < 0 ? -label : label) - 1; }

}  // namespace

// Brings one segment's slice to a label: a sign change takes one pass, everything else goes through the adapter itself.
zo_status LocalUpdate::move_to(uint32_t segment, Label label) noexcept {
  const Label current = at_[segment];
  if (current == label) return ZO_OK;
  const Stopwatch watch(&chain_.counters.segment_perturb_ns[segment]);
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
  for (size_t i = chain_.first_tensor(segment); i < chain_.last_tensor(segment); ++i) {
    const TensorSlice& slice = chain_.layout()[i];
    const zo_status status = add_to(chain_.adapter() + slice.offset, slice, label, multiplier);
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

zo_status LocalUpdate::add_to(float* theta, const TensorSlice& slice, Label label, int multiplier) noexcept {
  const zo_direction on_slice = on_tensor((*directions_)[direction_of(label)], slice, 0);
  return zo_perturb(theta, slice.offset, slice.count, slice.exponent, epsilon_, &on_slice, multiplier);
}

// theta + k and theta - k of a segment, in the copies that a pair reads: the same bits as in place.
zo_status LocalUpdate::fill_pair(uint32_t segment, Label label) noexcept {
  const Stopwatch watch(&chain_.counters.segment_perturb_ns[segment]);
  for (size_t i = chain_.first_tensor(segment); i < chain_.last_tensor(segment); ++i) {
    const TensorSlice& slice = chain_.layout()[i];
    for (int half = 0; half < 2; ++half) {
      float* theta = chain_.pair_slice(i, half);
      std::memcpy(theta, chain_.adapter() + slice.offset, slice.count * sizeof(float));
      if (label == 0) continue;
      const zo_status status = add_to(theta, slice, label, (label > 0) == (half == 0) ? +1 : -1);
      if (status != ZO_OK) return status;
    }
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
  zo_status status = check_idle();
  if (status == ZO_OK) status = check_segments(update.active_segments);
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
