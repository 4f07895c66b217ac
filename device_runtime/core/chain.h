// The chain of segments: embed, segment 0 .. K-1, head (segment K), and all memory that they read and write.
//
// The adapter's slices and the hidden states enter the program by pointer: a perturbation in place is what the next
// run sees. What a method gives back lies in the program's arena until any method runs again, so every hidden state is
// copied to a slot here. Everything is allocated by load(), load_methods() and reserve_slots(); the other calls
// allocate nothing. A method's packed weights, most of a program's memory, are there from load_methods() to
// unload_except().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "buffer.h"
#include "program.h"
#include "status.h"

namespace cooperllm {

// One tensor of the adapter, as the layout says.
struct TensorSlice {
  uint32_t segment;
  uint64_t offset;
  uint64_t count;
  int exponent;
  int rank;
  int32_t sizes[kMaxRank];
};

struct ChainShape {
  uint32_t segments;  // K, without embed and head
  uint32_t batch_examples;
  uint32_t max_tokens;
  uint32_t hidden_size;
  // Where the targets are tokens: how many of them one run of `head` takes, and of how many tokens they may be. 0: each
  // row has one label, and `head` takes the batch.
  uint32_t head_tokens = 0;
  uint32_t vocabulary = 0;
};

// The label of a token without a target.
constexpr int64_t kNoTarget = -100;

// A padded batch that the caller owns: `batch_examples` rows of `tokens`. Rows of weight 0 count nothing. Where
// `hidden` is set, it is what enters `first_segment`: nothing before that segment runs.
struct Batch {
  const int64_t* input_ids;
  const int64_t* attention_mask;
  const int64_t* labels;  // one a row, or one a token
  const double* weights;
  uint32_t tokens;
  const float* hidden = nullptr;  // batch_examples * tokens * hidden_size
  uint32_t first_segment = 0;     // 1 .. K where `hidden` is set
};

// Per example, valid until the next run.
struct HeadResult {
  const double* loss;
  const double* count;
  const double* correct;  // right answers; of one label it is 0 or 1
  const float* logits;    // in the program's arena; null where the targets are tokens
};

struct Counters {
  uint64_t embed_runs = 0;
  std::vector<uint64_t> segment_runs;        // K + 1 entries, the head's last
  std::vector<uint64_t> auxiliary_runs;      // K entries
  std::vector<uint64_t> pair_runs;           // K entries; each does the work of two runs of the segment
  std::vector<uint64_t> segment_ns;          // K + 1 entries, the head's last: in these runs, pairs among them
  std::vector<uint64_t> segment_perturb_ns;  // K + 1 entries: changing the adapter
  std::vector<uint64_t> segment_check_ns;    // K + 1 entries: looking at directions before they perturb
  uint64_t method_loads = 0;
  uint64_t forward_ns = 0;  // inside the program
  uint64_t total_ns = 0;
};

// What a call runs: segments first_segment .. exit_segment - 1, and the branches of exit_segment .. K - 1.
struct Needs {
  bool embed;
  uint32_t first_segment;
  uint32_t exit_segment;
  bool head = false;
  bool auxiliaries = false;
  uint32_t pair_segment = UINT32_MAX;  // from this segment on both signs run together,
  bool singles = true;                 // and where this is set, one at a time as well
};

class Chain {
 public:
  // Checks each input and output of every method against shape and layout; loads none. On failure `*message` says what
  // is wrong in one line. Throws std::bad_alloc.
  zo_status load(Program* program, const ChainShape& shape, const std::vector<TensorSlice>& layout,
                 std::string* message);

  const ChainShape& shape() const noexcept { return shape_; }
  const std::vector<TensorSlice>& layout() const noexcept { return layout_; }
  uint32_t classes() const noexcept { return classes_; }  // 0 where the targets are tokens
  bool targets_are_tokens() const noexcept { return shape_.head_tokens > 0; }
  size_t labels(const Batch& batch) const noexcept {
    return targets_are_tokens() ? size_t{shape_.batch_examples} * batch.tokens : shape_.batch_examples;
  }
  bool is_label(int64_t label) const noexcept {
    if (targets_are_tokens() && label == kNoTarget) return true;
    return label >= 0 && label < static_cast<int64_t>(targets_are_tokens() ? shape_.vocabulary : classes_);
  }
  uint64_t parameters() const noexcept { return parameters_; }
  float* adapter() const noexcept { return adapter_.as<float>(); }

  // The half-open range of the layout's entries that belong to a segment (0 .. K).
  size_t first_tensor(uint32_t segment) const noexcept { return first_tensor_[segment]; }
  size_t last_tensor(uint32_t segment) const noexcept { return first_tensor_[segment + 1]; }

  uint64_t segment_parameters(uint32_t segment) const noexcept;

  // Loads what is needed and not there yet. Throws std::bad_alloc.
  zo_status load_methods(const Needs& needs, std::string* message);
  // The same of one segment, or of the head with the auxiliary branches from `branch` on; allocates only to load.
  zo_status load_segment(uint32_t segment, uint32_t branch, std::string* message);

  // Lets go of every segment and every auxiliary branch but these, with their memory. embed and head stay.
  void unload_except(const std::vector<uint32_t>& segments, const std::vector<uint32_t>& auxiliaries);

  std::vector<std::string> loaded_methods() const;  // by name, in the order of the chain

  bool has_auxiliary(uint32_t segment) const noexcept { return auxiliary_methods_[segment] >= 0; }
  bool has_auxiliaries(uint32_t from_segment = 0) const noexcept;  // any, from a segment on

  void reset_counters();
  void reserve_slots(size_t slots);  // throws std::bad_alloc

  // Memory for batches that are in work side by side: slots of a batch's own length behind those that are there, and
  // what `embed` gives besides, for each batch (contexts 1 .. batches). Throws std::bad_alloc; release_apart() frees
  // it.
  void reserve_apart(const std::vector<Batch>& batches, size_t slots_a_batch);
  void release_apart();
  size_t context_bytes() const noexcept;  // of one batch, at most
  size_t apart_slot(size_t batch) const noexcept { return first_apart_ + batch * slots_apart_; }
  zo_status embed_apart(size_t batch);  // of the batch that is set, to its first slot; throws std::bad_alloc

  // Copies a batch to aligned memory. ZO_BAD_ARGUMENT: tokens outside 1 .. max_tokens, or a label outside the classes.
  // Of several batches in work, `context` says whose it is; 0: of a batch by itself.
  zo_status set_batch(const Batch& batch, size_t context = 0) noexcept;
  zo_status embed(size_t to_slot) noexcept;
  void set_hidden(const float* hidden, size_t to_slot) noexcept;  // of the batch's shape
  const float* hidden(size_t slot) const noexcept { return slots_[slot].as<float>(); }
  zo_status run_segment(uint32_t segment, size_t from_slot, size_t to_slot) noexcept;  // segment < K
  // A segment's adapters without its frozen part (ChainFed, arXiv 2604.06819); without such a method, the identity.
  zo_status run_auxiliary(uint32_t segment, size_t from_slot, size_t to_slot) noexcept;
  zo_status run_head(size_t from_slot, HeadResult* result) noexcept;

  // Both signs in one forward: `pair_k` runs a segment on two copies of the batch, each with an adapter of its own, and
  // reads the frozen weights once (MobiZO, arXiv 2409.15520). The copies of the adapter, twice the slices of the
  // segments in between, are made by reserve_pairs(), which throws std::bad_alloc.
  bool has_pairs(uint32_t first_segment, uint32_t exit_segment) const noexcept;
  void reserve_pairs(uint32_t first_segment, uint32_t exit_segment);
  float* pair_slice(size_t tensor, int half) const noexcept;  // of a layout entry; half 0 or 1
  void set_pair_hidden(size_t from_slot) noexcept;            // for both halves
  zo_status run_pair(uint32_t segment) noexcept;
  void take_half(int half, size_t to_slot) noexcept;

  // The gradient of sum_b weights_b * loss_b by the head's tensors, in layout order, is added to `sum`: see
  // bundle.proto.
  bool has_head_gradient() const noexcept { return head_gradient_ >= 0; }
  zo_status load_head_gradient(std::string* message) { return load_method(head_gradient_, message); }
  zo_status run_head_gradient(size_t from_slot, const double* weights, double* sum) noexcept;

  Counters counters;

 private:
  zo_status find_methods(std::string* message);
  zo_status index_layout(const std::vector<TensorSlice>& layout, std::string* message);
  zo_status check_method(int method, const char* name, const std::vector<Tensor>& inputs,
                         const std::vector<Tensor>& outputs, std::string* message) const;
  void bind_adapter(uint32_t segment, std::vector<Tensor>* inputs) const;
  zo_status run(int method, const std::vector<Tensor>& inputs, size_t outputs) noexcept;
  zo_status find_method(const std::string& name, int* method, std::string* message);
  zo_status find_embed(std::string* message);
  zo_status find_segment(uint32_t segment, std::string* message);
  zo_status find_auxiliary(uint32_t segment, std::string* message);
  zo_status find_pair(uint32_t segment, std::string* message);
  zo_status find_head(std::string* message);
  zo_status find_head_gradient(std::string* message);
  zo_status load_method(int method, std::string* message);
  zo_status run_label_head(size_t from_slot, HeadResult* result) noexcept;
  zo_status run_token_head(size_t from_slot) noexcept;
  zo_status run_tokens(size_t used) noexcept;
  zo_status keep_context() noexcept;
  zo_status keep_hidden(size_t to_slot) noexcept;

  Program* program_ = nullptr;
  ChainShape shape_{};
  std::vector<TensorSlice> layout_;
  std::vector<size_t> first_tensor_;  // K + 2 entries
  uint64_t parameters_ = 0;
  uint32_t classes_ = 0;

  int embed_ = -1, head_ = -1, head_gradient_ = -1;                      // the last one is not in every program
  std::vector<int> segment_methods_, auxiliary_methods_, pair_methods_;  // -1: the program has no such method
  std::vector<std::string> method_names_;                                // by the program's number
  std::vector<Tensor> embed_inputs_, head_inputs_, gradient_inputs_;
  std::vector<std::vector<Tensor>> segment_inputs_, auxiliary_inputs_, pair_inputs_;
  std::vector<Tensor> outputs_;  // as many as the method with the most gives

  Buffer adapter_, ids_, mask_int_, mask_float_, labels_;
  Buffer row_weights_, row_targets_;            // of run_head_gradient
  std::vector<double> loss_, count_, correct_;  // of the last run of the head, by row
  // One run's tokens that have a target: their hidden states, targets and rows.
  Buffer token_hidden_, token_targets_;
  std::vector<uint32_t> token_rows_;
  struct Context {  // what `embed` gives besides the hidden states, the same for every segment
    std::vector<Buffer> buffers;
    std::vector<Tensor> tensors;
  };
  std::vector<Context> contexts_ = std::vector<Context>(1);
  size_t context_ = 0;                    // of the batch that is set
  std::vector<bool> context_is_doubled_;  // twice in contexts_[0], as both signs want it
  std::vector<Buffer> slots_;
  size_t first_apart_ = 0, slots_apart_ = 0;
  Buffer pair_hidden_, pair_adapter_;
  uint64_t pair_offset_ = 0;  // the parameter that pair_adapter_ begins with
  Tensor hidden_;             // shapes at the batch's length
};

}  // namespace cooperllm
