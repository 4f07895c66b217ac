// Several batches in work side by side, each with hidden states and a context of its own.
#include "chain.h"
#include "stopwatch.h"

namespace cooperllm {

void Chain::reserve_apart(const std::vector<Batch>& batches, size_t slots_a_batch) {
  release_apart();
  first_apart_ = slots_.size();
  slots_apart_ = slots_a_batch;
  contexts_.resize(1 + batches.size());
  for (const Batch& batch : batches) {
    const size_t size_bytes = size_t{shape_.batch_examples} * batch.tokens * shape_.hidden_size * sizeof(float);
    for (size_t i = 0; i < slots_a_batch; ++i) slots_.emplace_back(size_bytes);
  }
}

void Chain::release_apart() {
  if (slots_apart_ == 0) return;
  slots_.resize(first_apart_);
  contexts_.resize(1);
  slots_apart_ = context_ = 0;
}

size_t Chain::context_bytes() const noexcept {
  size_t total_bytes = 0;
  for (const Buffer& buffer : contexts_[0].buffers) total_bytes += buffer.size_bytes();
  return total_bytes;
}

// The context's buffers are made as large as this batch needs, once it is known.
zo_status Chain::embed_apart(size_t batch) {
  ++counters.embed_runs;
  const size_t outputs = 1 + contexts_[0].buffers.size();
  zo_status status = run(embed_, embed_inputs_, outputs);
  program_->release_pages();
  if (status != ZO_OK) return status;
  Context& context = contexts_[1 + batch];
  for (size_t i = 1; i < outputs; ++i) context.buffers.emplace_back(outputs_[i].size_bytes());
  context.tensors.resize(outputs - 1);
  status = keep_context();
  return status == ZO_OK ? keep_hidden(apart_slot(batch)) : status;
}

}  // namespace cooperllm
