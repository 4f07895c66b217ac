#include "chain.h"

#include <algorithm>
#include <cstring>

#include "stopwatch.h"

namespace cooperllm {
namespace {

Tensor tensor(Kind kind, std::initializer_list<uint32_t> sizes, void* data = nullptr) {
  Tensor made;
  made.kind = kind;
  made.data = data;
  for (const uint32_t size : sizes) made.sizes[made.rank++] = static_cast<int32_t>(size);
  return made;
}

bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.kind != b.kind || a.rank != b.rank) return false;
  return std::memcmp(a.sizes, b.sizes, sizeof(int32_t) * static_cast<size_t>(a.rank)) == 0;
}

std::string describe(const Tensor& t) {
  std::string text = t.kind == Kind::kFloat32 ? "float32[" : t.kind == Kind::kInt64 ? "int64[" : "other[";
  for (int i = 0; i < t.rank; ++i) text += (i > 0 ? "," : "") + std::to_string(t.sizes[i]);
  return text + "]";
}

}  // namespace

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
  status = load_methods(message);
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

void Chain::bind_adapter(uint32_t segment, std::vector<Tensor>* inputs) const {
  for (size_t i = first_tensor(segment); i < last_tensor(segment); ++i) {
    Tensor slice;
    slice.rank = layout_[i].rank;
    std::memcpy(slice.sizes, layout_[i].sizes, sizeof(slice.sizes));
    slice.data = adapter() + layout_[i].offset;
    inputs->push_back(slice);
  }
}

zo_status Chain::open_method(const std::string& name, int* method, std::string* message) {
  const zo_status status = program_->load_method(name.c_str(), method);
  if (status != ZO_OK) *message = "method '" + name + "': " + program_->last_message();
  program_->release_pages();  // its weights are packed now; so the file's pages never lie beside all of them
  return status;
}

zo_status Chain::load_embed(std::string* message) {
  const uint32_t b = shape_.batch_examples, t = shape_.max_tokens;
  hidden_ = tensor(Kind::kFloat32, {b, t, shape_.hidden_size});
  embed_inputs_ = {tensor(Kind::kInt64, {b, t}, ids_.data()), tensor(Kind::kInt64, {b, t}, mask_int_.data())};
  zo_status status = open_method("embed", &embed_, message);
  if (status != ZO_OK) return status;
  std::vector<Tensor> outputs = {hidden_};
  for (size_t i = 1; i < program_->output_count(embed_); ++i) {
    Tensor meta;
    if (program_->output_meta(embed_, i, &meta) != ZO_OK || meta.kind != Kind::kFloat32) {
      *message = "method 'embed' does not fit the manifest: output " + std::to_string(i) + " is no float32 tensor";
      return ZO_PROGRAM_MISMATCH;
    }
    outputs.push_back(meta);
    context_.emplace_back(meta.size_bytes());
    meta.data = context_.back().data();
    context_tensors_.push_back(meta);
  }
  outputs_.resize(std::max<size_t>(outputs.size(), 3));
  return check_method(embed_, "embed", embed_inputs_, outputs, message);
}

zo_status Chain::load_methods(std::string* message) {
  zo_status status = load_embed(message);
  if (status != ZO_OK) return status;
  for (uint32_t k = 0; k < shape_.segments; ++k) {
    const std::string name = "segment_" + std::to_string(k);
    segment_methods_.push_back(-1);
    segment_inputs_.push_back({hidden_});
    segment_inputs_.back().insert(segment_inputs_.back().end(), context_tensors_.begin(), context_tensors_.end());
    bind_adapter(k, &segment_inputs_.back());
    status = open_method(name, &segment_methods_.back(), message);
    if (status != ZO_OK) return status;
    status = check_method(segment_methods_.back(), name.c_str(), segment_inputs_.back(), {hidden_}, message);
    if (status != ZO_OK) return status;
  }
  return load_head(message);
}

zo_status Chain::load_head(std::string* message) {
  const uint32_t b = shape_.batch_examples, t = shape_.max_tokens, n = shape_.head_tokens;
  zo_status status = open_method("head", &head_, message);
  if (status != ZO_OK) return status;
  if (targets_are_tokens()) {
    head_inputs_ = {tensor(Kind::kFloat32, {n, shape_.hidden_size}, token_hidden_.data()),
                    tensor(Kind::kInt64, {n}, token_targets_.data())};
    bind_adapter(shape_.segments, &head_inputs_);
    const Tensor per_token = tensor(Kind::kFloat32, {n});
    return check_method(head_, "head", head_inputs_, {per_token, per_token}, message);
  }
  head_inputs_ = {hidden_, tensor(Kind::kFloat32, {b, t}, mask_float_.data()),
                  tensor(Kind::kInt64, {b}, labels_.data())};
  bind_adapter(shape_.segments, &head_inputs_);
  Tensor logits;
  if (program_->output_count(head_) == 3) program_->output_meta(head_, 2, &logits);
  classes_ = logits.rank == 2 ? static_cast<uint32_t>(logits.sizes[1]) : 0;
  const Tensor per_example = tensor(Kind::kFloat32, {b});
  return check_method(head_, "head", head_inputs_, {per_example, per_example, tensor(Kind::kFloat32, {b, classes_})},
                      message);
}

zo_status Chain::check_method(int method, const char* name, const std::vector<Tensor>& inputs,
                              const std::vector<Tensor>& outputs, std::string* message) const {
  const auto differs = [&](const std::string& what) {
    *message = "method '" + std::string(name) + "' does not fit the manifest: " + what;
    return ZO_PROGRAM_MISMATCH;
  };
  if (program_->input_count(method) != inputs.size() || program_->output_count(method) != outputs.size()) {
    return differs("it takes " + std::to_string(program_->input_count(method)) + " and gives " +
                   std::to_string(program_->output_count(method)) + " tensors, " + std::to_string(inputs.size()) +
                   " and " + std::to_string(outputs.size()) + " were expected");
  }
  for (size_t i = 0; i < inputs.size() + outputs.size(); ++i) {
    const bool is_input = i < inputs.size();
    const size_t index = is_input ? i : i - inputs.size();
    const Tensor& wanted = is_input ? inputs[index] : outputs[index];
    Tensor found;
    const zo_status status =
        is_input ? program_->input_meta(method, index, &found) : program_->output_meta(method, index, &found);
    if (status != ZO_OK || !same_shape(found, wanted)) {
      return differs((is_input ? "input " : "output ") + std::to_string(index) + " is " + describe(found) + ", not " +
                     describe(wanted));
    }
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
}

void Chain::reserve_slots(size_t slots) {
  const size_t size_bytes = size_t{shape_.batch_examples} * shape_.max_tokens * shape_.hidden_size * sizeof(float);
  while (slots_.size() < slots) slots_.emplace_back(size_bytes);
}

zo_status Chain::set_batch(const Batch& batch) noexcept {
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
  if (!same_shape(outputs_[0], hidden_)) return ZO_PROGRAM_MISMATCH;
  std::memcpy(slots_[to_slot].data(), outputs_[0].data, hidden_.size_bytes());
  return ZO_OK;
}

zo_status Chain::keep_context() noexcept {
  for (size_t i = 0; i < context_.size(); ++i) {
    const Tensor& given = outputs_[i + 1];
    if (given.size_bytes() > context_[i].size_bytes()) return ZO_PROGRAM_MISMATCH;
    std::memcpy(context_[i].data(), given.data, given.size_bytes());
    context_tensors_[i] = given;
    context_tensors_[i].data = context_[i].data();
  }
  return ZO_OK;
}

zo_status Chain::embed(size_t to_slot) noexcept {
  ++counters.embed_runs;
  zo_status status = run(embed_, embed_inputs_, 1 + context_.size());
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
  std::copy(context_tensors_.begin(), context_tensors_.end(), inputs.begin() + 1);
  ++counters.segment_runs[segment];
  const zo_status status = run(segment_methods_[segment], inputs, 1);
  return status == ZO_OK ? keep_hidden(to_slot) : status;
}

zo_status Chain::run_head(size_t from_slot, HeadResult* result) noexcept {
  ++counters.segment_runs[shape_.segments];
  *result = {loss_.data(), count_.data(), correct_.data(), nullptr};
  return targets_are_tokens() ? run_token_head(from_slot) : run_label_head(from_slot, result);
}

zo_status Chain::run_label_head(size_t from_slot, HeadResult* result) noexcept {
  head_inputs_[0] = hidden_;
  head_inputs_[0].data = slots_[from_slot].data();
  const zo_status status = run(head_, head_inputs_, 3);
  if (status != ZO_OK) return status;
  result->logits = static_cast<const float*>(outputs_[2].data);
  for (uint32_t row = 0; row < shape_.batch_examples; ++row) {
    loss_[row] = static_cast<double>(static_cast<const float*>(outputs_[0].data)[row]);
    count_[row] = static_cast<double>(static_cast<const float*>(outputs_[1].data)[row]);
    const float* logits = result->logits + size_t{row} * classes_;
    uint32_t largest = 0;  // the first of equals
    for (uint32_t c = 1; c < classes_; ++c) largest = logits[c] > logits[largest] ? c : largest;
    correct_[row] = static_cast<int64_t>(largest) == labels_.as<int64_t>()[row] ? 1.0 : 0.0;
  }
  return ZO_OK;
}

// Gathers the hidden states of tokens with a target, head_tokens at a time: logits over the vocabulary are never held
// for more tokens than that, and none are computed for tokens without a target.
zo_status Chain::run_token_head(size_t from_slot) noexcept {
  for (std::vector<double>* sums : {&loss_, &count_, &correct_}) std::fill(sums->begin(), sums->end(), 0.0);
  const size_t tokens = static_cast<size_t>(hidden_.sizes[1]), width = shape_.hidden_size;
  size_t used = 0;
  for (size_t cell = 0; cell < shape_.batch_examples * tokens; ++cell) {
    const int64_t target = labels_.as<int64_t>()[cell];
    if (target == kNoTarget) continue;
    std::memcpy(token_hidden_.as<float>() + used * width, hidden(from_slot) + cell * width, width * sizeof(float));
    token_targets_.as<int64_t>()[used] = target;
    token_rows_[used] = static_cast<uint32_t>(cell / tokens);
    if (++used < shape_.head_tokens) continue;
    const zo_status status = run_tokens(used);
    if (status != ZO_OK) return status;
    used = 0;
  }
  return used > 0 ? run_tokens(used) : ZO_OK;
}

zo_status Chain::run_tokens(size_t used) noexcept {
  const size_t rest = shape_.head_tokens - used, width = shape_.hidden_size;
  std::memset(token_hidden_.as<float>() + used * width, 0, rest * width * sizeof(float));
  std::memset(token_targets_.as<int64_t>() + used, 0, rest * sizeof(int64_t));
  const zo_status status = run(head_, head_inputs_, 2);
  if (status != ZO_OK) return status;
  for (size_t i = 0; i < used; ++i) {
    loss_[token_rows_[i]] += static_cast<double>(static_cast<const float*>(outputs_[0].data)[i]);
    correct_[token_rows_[i]] += static_cast<double>(static_cast<const float*>(outputs_[1].data)[i]);
    count_[token_rows_[i]] += 1.0;
  }
  return ZO_OK;
}

}  // namespace cooperllm
