// Which methods a program has, whether they fit the manifest, and when their weights are in memory.
#include <algorithm>
#include <cstring>

#include "chain.h"

namespace cooperllm {
namespace {

Tensor tensor(Kind kind, std::initializer_list<uint32_t> sizes, void* data = nullptr) {
  Tensor made;
  made.kind = kind;
  made.data = data;
  for (const uint32_t size : sizes) made.sizes[made.rank++] = static_cast<int32_t>(size);
  return made;
}

std::string describe(const Tensor& t) {
  std::string text = t.kind == Kind::kFloat32 ? "float32[" : t.kind == Kind::kInt64 ? "int64[" : "other[";
  for (int i = 0; i < t.rank; ++i) text += (i > 0 ? "," : "") + std::to_string(t.sizes[i]);
  return text + "]";
}

}  // namespace

void Chain::bind_adapter(uint32_t segment, std::vector<Tensor>* inputs) const {
  for (size_t i = first_tensor(segment); i < last_tensor(segment); ++i) {
    Tensor slice;
    slice.rank = layout_[i].rank;
    std::memcpy(slice.sizes, layout_[i].sizes, sizeof(slice.sizes));
    slice.data = adapter() + layout_[i].offset;
    inputs->push_back(slice);
  }
}

zo_status Chain::find_method(const std::string& name, int* method, std::string* message) {
  const zo_status status = program_->find_method(name.c_str(), method);
  if (status != ZO_OK) {
    *message = "method '" + name + "': " + program_->last_message();
    return status;
  }
  method_names_.resize(std::max<size_t>(method_names_.size(), static_cast<size_t>(*method) + 1));
  method_names_[static_cast<size_t>(*method)] = name;
  return ZO_OK;
}

zo_status Chain::find_methods(std::string* message) {
  zo_status status = find_embed(message);
  for (uint32_t k = 0; k < shape_.segments && status == ZO_OK; ++k) {
    status = find_segment(k, message);
    if (status == ZO_OK) status = find_auxiliary(k, message);
    if (status == ZO_OK) status = find_pair(k, message);
  }
  if (status == ZO_OK) status = find_head(message);
  return status == ZO_OK ? find_head_gradient(message) : status;
}

zo_status Chain::find_embed(std::string* message) {
  const uint32_t b = shape_.batch_examples, t = shape_.max_tokens;
  hidden_ = tensor(Kind::kFloat32, {b, t, shape_.hidden_size});
  embed_inputs_ = {tensor(Kind::kInt64, {b, t}, ids_.data()), tensor(Kind::kInt64, {b, t}, mask_int_.data())};
  zo_status status = find_method("embed", &embed_, message);
  if (status != ZO_OK) return status;
  std::vector<Tensor> outputs = {hidden_};
  for (size_t i = 1; i < program_->output_count(embed_); ++i) {
    Tensor meta;
    if (program_->output_meta(embed_, i, &meta) != ZO_OK || meta.kind != Kind::kFloat32) {
      *message = "method 'embed' does not fit the manifest: output " + std::to_string(i) + " is no float32 tensor";
      return ZO_PROGRAM_MISMATCH;
    }
    outputs.push_back(meta);
    contexts_[0].buffers.emplace_back(meta.size_bytes());
    meta.data = contexts_[0].buffers.back().data();
    contexts_[0].tensors.push_back(meta);
  }
  context_is_doubled_.assign(contexts_[0].buffers.size(), false);
  outputs_.resize(std::max<size_t>(outputs.size(), 3));
  return check_method(embed_, "embed", embed_inputs_, outputs, message);
}

zo_status Chain::find_segment(uint32_t segment, std::string* message) {
  const std::string name = "segment_" + std::to_string(segment);
  std::vector<Tensor> inputs = {hidden_};
  inputs.insert(inputs.end(), contexts_[0].tensors.begin(), contexts_[0].tensors.end());
  bind_adapter(segment, &inputs);
  segment_methods_.push_back(-1);
  zo_status status = find_method(name, &segment_methods_.back(), message);
  if (status == ZO_OK) status = check_method(segment_methods_.back(), name.c_str(), inputs, {hidden_}, message);
  segment_inputs_.push_back(std::move(inputs));
  return status;
}

zo_status Chain::find_auxiliary(uint32_t segment, std::string* message) {
  const std::string name = "auxiliary_" + std::to_string(segment);
  std::vector<Tensor> inputs = {hidden_};
  bind_adapter(segment, &inputs);
  auxiliary_methods_.push_back(-1);
  zo_status status = ZO_OK;
  if (program_->has_method(name.c_str())) {
    status = find_method(name, &auxiliary_methods_.back(), message);
    if (status == ZO_OK) status = check_method(auxiliary_methods_.back(), name.c_str(), inputs, {hidden_}, message);
  }
  auxiliary_inputs_.push_back(std::move(inputs));
  return status;
}

zo_status Chain::find_head(std::string* message) {
  const uint32_t b = shape_.batch_examples, t = shape_.max_tokens, n = shape_.head_tokens;
  zo_status status = find_method("head", &head_, message);
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

zo_status Chain::find_head_gradient(std::string* message) {
  if (targets_are_tokens() || !program_->has_method("head_gradient")) return ZO_OK;
  const zo_status status = find_method("head_gradient", &head_gradient_, message);
  if (status != ZO_OK) return status;
  const uint32_t b = shape_.batch_examples, t = shape_.max_tokens;
  row_weights_.reserve(b * sizeof(float));
  row_targets_.reserve(size_t{b} * classes_ * sizeof(float));
  std::vector<Tensor> outputs;  // as the tensors that the gradient is by
  bind_adapter(shape_.segments, &outputs);
  gradient_inputs_ = {hidden_, tensor(Kind::kFloat32, {b, t}, mask_float_.data()),
                      tensor(Kind::kFloat32, {b, 1}, row_weights_.data()),
                      tensor(Kind::kFloat32, {b, classes_}, row_targets_.data())};
  bind_adapter(shape_.segments, &gradient_inputs_);
  outputs_.resize(std::max(outputs_.size(), outputs.size()));
  return check_method(head_gradient_, "head_gradient", gradient_inputs_, outputs, message);
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
    if (status != ZO_OK || !found.same_shape(wanted)) {
      return differs((is_input ? "input " : "output ") + std::to_string(index) + " is " + describe(found) + ", not " +
                     describe(wanted));
    }
  }
  return ZO_OK;
}

bool Chain::has_auxiliaries(uint32_t from_segment) const noexcept {
  for (uint32_t k = from_segment; k < shape_.segments; ++k) {
    if (has_auxiliary(k)) return true;
  }
  return false;
}

zo_status Chain::load_method(int method, std::string* message) {
  if (program_->is_loaded(method)) return ZO_OK;
  ++counters.method_loads;
  const zo_status status = program_->load_method(method);
  if (status != ZO_OK) {
    *message = "method '" + method_names_[static_cast<size_t>(method)] + "': " + program_->last_message();
  }
  program_->release_pages();  // its weights are packed now; so the file's pages never lie beside all of them
  return status;
}

zo_status Chain::load_methods(const Needs& needs, std::string* message) {
  std::vector<int> methods;
  if (needs.embed) methods.push_back(embed_);
  for (uint32_t k = needs.first_segment; k < needs.exit_segment; ++k) {
    if (needs.singles || k < needs.pair_segment) methods.push_back(segment_methods_[k]);
    if (k >= needs.pair_segment) methods.push_back(pair_methods_[k]);
  }
  for (uint32_t k = needs.exit_segment; k < shape_.segments && needs.auxiliaries; ++k) {
    if (has_auxiliary(k)) methods.push_back(auxiliary_methods_[k]);
  }
  if (needs.head) methods.push_back(head_);
  for (const int method : methods) {
    const zo_status status = load_method(method, message);
    if (status != ZO_OK) return status;
  }
  return ZO_OK;
}

zo_status Chain::load_segment(uint32_t segment, uint32_t branch, std::string* message) {
  if (segment < shape_.segments) return load_method(segment_methods_[segment], message);
  zo_status status = load_method(head_, message);
  for (uint32_t k = branch; k < shape_.segments && status == ZO_OK; ++k) {
    if (has_auxiliary(k)) status = load_method(auxiliary_methods_[k], message);
  }
  return status;
}

void Chain::unload_except(const std::vector<uint32_t>& segments, const std::vector<uint32_t>& auxiliaries) {
  std::vector<int> methods;
  const auto add = [&](const std::vector<int>& all, const std::vector<uint32_t>& kept) {
    for (uint32_t k = 0; k < all.size(); ++k) {
      const bool keep = std::find(kept.begin(), kept.end(), k) != kept.end();
      if (!keep && all[k] >= 0 && program_->is_loaded(all[k])) methods.push_back(all[k]);
    }
  };
  add(segment_methods_, segments);
  add(auxiliary_methods_, auxiliaries);
  add(pair_methods_, segments);
  if (!methods.empty()) program_->unload_methods(methods);
}

std::vector<std::string> Chain::loaded_methods() const {
  std::vector<std::string> names;
  for (size_t method = 0; method < method_names_.size(); ++method) {
    if (program_->is_loaded(static_cast<int>(method))) names.push_back(method_names_[method]);
  }
  return names;
}

}  // namespace cooperllm
