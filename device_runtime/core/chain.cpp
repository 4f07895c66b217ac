#include "chain.h"

#include <algorithm>
#include <cstring>

#include "stopwatch.h"

namespace cooperllm {

zo_status Chain::load(Program* program, const ChainShape& shape, const std::vector<TensorSlice>& layout,
                      std::string* message) {
  program_ = program;
  shape_ = shape;
  if (shape.batch_examples == 0 || shape.max_tokens == 0 || shape.hidden_size == 0 ||
      (shape.head_tokens > 0 && shape.vocabulary == 0)) {
    *message = "batch_examples, max_tokens, hidden_size and a token head's vocabulary must be at least 1";
    return ZO_BAD_ARGUMENT;
  }
  zo_status status = index_layout(layout, message);
  if (status != ZO_OK) return status;
  adapter_.reserve(parameters_ * sizeof(float));
  const size_t cells = size_t{shape.batch_examples} * shape.max_tokens;
  ids_.reserve(cells * sizeof(int64_t));
  mask_int_.reserve(cells * sizeof(int64_t));
  mask_float_.reserve(cells * sizeof(float));
  labels_.reserve((shape.head_tokens > 0 ? cells : shape.batch_examples) * sizeof(int64_t));
  for (std::vector<double>* sums : {&loss_, &count_, &correct_}) sums->assign(shape.batch_examples, 0.0);
  token_hidden_.reserve(size_t{shape.head_tokens} * shape.hidden_size * sizeof(float));
  token_targets_.reserve(shape.head_tokens * sizeof(int64_t));
  token_rows_.assign(shape.head_tokens, 0);
  status = find_methods(message);
  if (status != ZO_OK) return status;
  reset_counters();
  reserve_slots(2);  // what one shared prefix needs; other plans ask for more
  return ZO_OK;
}

zo_status Chain::index_layout(const std::vector<TensorSlice>& layout, std::string* message) {
  layout_ = layout;
  parameters_ = 0;
  first_tensor_.assign(shape_.segments + 2, layout.size());
  uint32_t segment = 0;
  first_tensor_[0] = 0;
  for (size_t i = 0; i < layout.size(); ++i) {
    const TensorSlice& slice = layout[i];
    uint64_t count = 1;
    for (int d = 0; d < slice.rank; ++d) count *= static_cast<uint64_t>(slice.sizes[d]);
    if (slice.offset != parameters_ || slice.count != count || slice.segment < segment ||
        slice.segment > shape_.segments) {
      *message = "layout entry " + std::to_string(i) + " is out of order, or its count is not that of its shape";
      return ZO_BAD_ARGUMENT;
    }
    while (segment < slice.segment) first_tensor_[++segment] = i;
    parameters_ += count;
  }
  return ZO_OK;
}

uint64_t Chain::segment_parameters(uint32_t segment) const noexcept {
  uint64_t count = 0;
  for (size_t i = first_tensor(segment); i < last_tensor(segment); ++i) count += layout_[i].count;
  return count;
}

void Chain::reset_counters() {
  counters = Counters{};
  counters.segment_runs.assign(shape_.segments + 1, 0);
  counters.auxiliary_runs.assign(shape_.segments, 0);
  counters.pair_runs.assign(shape_.segments, 0);
  for (auto* times : {&counters.segment_ns, &counters.segment_perturb_ns, &counters.segment_check_ns}) {
    times->assign(shape_.segments + 1, 0);
  }
}

void Chain::reserve_slots(size_t slots) {
  const size_t size_bytes = size_t{shape_.batch_examples} * shape_.max_tokens * shape_.hidden_size * sizeof(float);
  while (slots_.size() < slots) slots_.emplace_back(size_bytes);
}

zo_status Chain::set_batch(const Batch& batch, size_t context) noexcept {
  context_ = context;
  if (batch.tokens == 0 || batch.tokens > shape_.max_tokens) return ZO_BAD_ARGUMENT;
  const size_t rows = shape_.batch_examples, cells = rows * batch.tokens;
  for (size_t i = 0; i < labels(batch); ++i) {
    if (!is_label(batch.labels[i])) return ZO_BAD_ARGUMENT;
  }
  std::memcpy(ids_.data(), batch.input_ids, cells * sizeof(int64_t));
  std::memcpy(mask_int_.data(), batch.attention_mask, cells * sizeof(int64_t));
  std::memcpy(labels_.data(), batch.labels, labels(batch) * sizeof(int64_t));
  for (size_t i = 0; i < cells; ++i) mask_float_.as<float>()[i] = static_cast<float>(batch.attention_mask[i]);
  const int32_t tokens = static_cast<int32_t>(batch.tokens);
  embed_inputs_[0].sizes[1] = embed_inputs_[1].sizes[1] = tokens;
  if (!targets_are_tokens()) head_inputs_[1].sizes[1] = tokens;
  hidden_.sizes[1] = tokens;
  return ZO_OK;
}

zo_status Chain::run(int method, const std::vector<Tensor>& inputs, size_t outputs) noexcept {
  const Stopwatch watch(&counters.forward_ns);
  return program_->run(method, inputs.data(), inputs.size(), outputs_.data(), outputs);
}

zo_status Chain::keep_hidden(size_t to_slot) noexcept {
  if (!outputs_[0].same_shape(hidden_)) return ZO_PROGRAM_MISMATCH;
  std::memcpy(slots_[to_slot].data(), outputs_[0].data, hidden_.size_bytes());
  return ZO_OK;
}

zo_status Chain::keep_context() noexcept {
  Context& context = contexts_[context_];
  for (size_t i = 0; i < context.buffers.size(); ++i) {
    const Tensor& given = outputs_[i + 1];
    const size_t size_bytes = given.size_bytes();
    const bool twice = context_ == 0 && context_is_doubled_[i];
    Buffer& kept = context.buffers[i];
    if ((twice ? 2 : 1) * size_bytes > kept.size_bytes()) return ZO_PROGRAM_MISMATCH;
    std::memcpy(kept.data(), given.data, size_bytes);
    if (twice) std::memcpy(kept.as<char>() + size_bytes, given.data, size_bytes);
    context.tensors[i] = given;
    context.tensors[i].data = kept.data();
  }
  return ZO_OK;
}

zo_status Chain::embed(size_t to_slot) noexcept {
  ++counters.embed_runs;
  zo_status status = run(embed_, embed_inputs_, 1 + contexts_[0].buffers.size());
  program_->release_pages();  // the rows of the embedding table that it looked up
  if (status == ZO_OK) status = keep_context();
  return status == ZO_OK ? keep_hidden(to_slot) : status;
}

void Chain::set_hidden(const float* hidden, size_t to_slot) noexcept {
  std::memcpy(slots_[to_slot].data(), hidden, hidden_.size_bytes());
}

zo_status Chain::run_segment(uint32_t segment, size_t from_slot, size_t to_slot) noexcept {
  std::vector<Tensor>& inputs = segment_inputs_[segment];
  inputs[0] = hidden_;
  inputs[0].data = slots_[from_slot].data();
  const Stopwatch watch(&counters.segment_ns[segment]);
  const std::vector<Tensor>& context = contexts_[context_].tensors;
  std::copy(context.begin(), context.end(), inputs.begin() + 1);
  ++counters.segment_runs[segment];
  const zo_status status = run(segment_methods_[segment], inputs, 1);
  return status == ZO_OK ? keep_hidden(to_slot) : status;
}

zo_status Chain::run_auxiliary(uint32_t segment, size_t from_slot, size_t to_slot) noexcept {
  if (!has_auxiliary(segment)) {
    if (from_slot != to_slot) set_hidden(hidden(from_slot), to_slot);
    return ZO_OK;
  }
  std::vector<Tensor>& inputs = auxiliary_inputs_[segment];
  inputs[0] = hidden_;
  inputs[0].data = slots_[from_slot].data();
  ++counters.auxiliary_runs[segment];
  const zo_status status = run(auxiliary_methods_[segment], inputs, 1);
  return status == ZO_OK ? keep_hidden(to_slot) : status;
}

}  // namespace cooperllm
