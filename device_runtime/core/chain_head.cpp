// The last method of the chain: losses, counts and right answers of every row.
#include <algorithm>
#include <cstring>

#include "chain.h"
#include "stopwatch.h"

namespace cooperllm {

zo_status Chain::run_head(size_t from_slot, HeadResult* result) noexcept {
  const Stopwatch watch(&counters.segment_ns[shape_.segments]);
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
