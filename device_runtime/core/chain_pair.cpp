// Both signs in one forward: a segment on two copies of the batch, each with an adapter of its own.
#include <cstring>

#include "chain.h"
#include "stopwatch.h"

namespace cooperllm {

// `pair_k` takes what `segment_k` takes, with 2B rows and each adapter tensor twice. A context tensor has 2B rows where
// it goes by row, and is as it was where it goes by token alone; the method says which.
zo_status Chain::find_pair(uint32_t segment, std::string* message) {
  const std::string name = "pair_" + std::to_string(segment);
  pair_methods_.push_back(-1);
  pair_inputs_.emplace_back();
  if (!program_->has_method(name.c_str())) return ZO_OK;
  const zo_status status = find_method(name, &pair_methods_.back(), message);
  if (status != ZO_OK) return status;
  std::vector<Tensor>& inputs = pair_inputs_.back();
  inputs = {hidden_};
  inputs[0].sizes[0] *= 2;
  for (size_t i = 0; i < contexts_[0].tensors.size(); ++i) {
    Tensor twice = contexts_[0].tensors[i], found;
    if (twice.rank > 0) twice.sizes[0] *= 2;
    const bool doubled = program_->input_meta(pair_methods_.back(), 1 + i, &found) == ZO_OK && found.same_shape(twice);
    inputs.push_back(doubled ? twice : contexts_[0].tensors[i]);
    if (!doubled || context_is_doubled_[i]) continue;
    context_is_doubled_[i] = true;
    contexts_[0].buffers[i].reserve(2 * contexts_[0].buffers[i].size_bytes());
  }
  for (size_t i = first_tensor(segment); i < last_tensor(segment); ++i) {
    Tensor slices;
    if (layout_[i].rank >= kMaxRank) {
      *message = "method '" + name + "' does not fit the manifest: an adapter tensor has too many dimensions";
      return ZO_PROGRAM_MISMATCH;
    }
    slices.rank = layout_[i].rank + 1;
    slices.sizes[0] = 2;
    std::memcpy(slices.sizes + 1, layout_[i].sizes, sizeof(int32_t) * static_cast<size_t>(layout_[i].rank));
    inputs.push_back(slices);
  }
  return check_method(pair_methods_.back(), name.c_str(), inputs, {inputs[0]}, message);
}

bool Chain::has_pairs(uint32_t first_segment, uint32_t exit_segment) const noexcept {
  for (uint32_t k = first_segment; k < exit_segment; ++k) {
    if (pair_methods_[k] < 0) return false;
  }
  return first_segment < exit_segment;
}

void Chain::reserve_pairs(uint32_t first_segment, uint32_t exit_segment) {
  const size_t first = first_tensor(first_segment), last = last_tensor(exit_segment - 1);
  pair_offset_ = first < last ? layout_[first].offset : 0;
  const uint64_t count = first < last ? layout_[last - 1].offset + layout_[last - 1].count - pair_offset_ : 0;
  pair_adapter_.reserve(2 * count * sizeof(float));
  const size_t cells = size_t{shape_.batch_examples} * shape_.max_tokens;
  pair_hidden_.reserve(2 * cells * shape_.hidden_size * sizeof(float));
}

float* Chain::pair_slice(size_t tensor, int half) const noexcept {
  const TensorSlice& slice = layout_[tensor];
  return pair_adapter_.as<float>() + 2 * (slice.offset - pair_offset_) + (half != 0 ? slice.count : 0);
}

void Chain::set_pair_hidden(size_t from_slot) noexcept {
  const size_t size_bytes = hidden_.size_bytes();
  std::memcpy(pair_hidden_.data(), slots_[from_slot].data(), size_bytes);
  std::memcpy(pair_hidden_.as<char>() + size_bytes, slots_[from_slot].data(), size_bytes);
}

zo_status Chain::run_pair(uint32_t segment) noexcept {
  std::vector<Tensor>& inputs = pair_inputs_[segment];
  const Stopwatch watch(&counters.segment_ns[segment]);
  inputs[0] = hidden_;
  inputs[0].sizes[0] *= 2;
  inputs[0].data = pair_hidden_.data();
  for (size_t i = 0; i < contexts_[0].tensors.size(); ++i) {
    inputs[1 + i] = contexts_[0].tensors[i];
    if (context_is_doubled_[i]) inputs[1 + i].sizes[0] *= 2;
  }
  const size_t first = first_tensor(segment);
  for (size_t i = first; i < last_tensor(segment); ++i) {
    inputs[1 + contexts_[0].tensors.size() + i - first].data = pair_slice(i, 0);
  }
  ++counters.pair_runs[segment];
  const zo_status status = run(pair_methods_[segment], inputs, 1);
  if (status != ZO_OK) return status;
  if (!outputs_[0].same_shape(inputs[0])) return ZO_PROGRAM_MISMATCH;
  std::memcpy(pair_hidden_.data(), outputs_[0].data, inputs[0].size_bytes());
  return ZO_OK;
}

void Chain::take_half(int half, size_t to_slot) noexcept {
  const size_t size_bytes = hidden_.size_bytes();
  std::memcpy(slots_[to_slot].data(), pair_hidden_.as<char>() + (half != 0 ? size_bytes : 0), size_bytes);
}

}  // namespace cooperllm
