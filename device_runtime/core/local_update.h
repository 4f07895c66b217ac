// The local update: losses under perturbations of the one adapter in memory, projected gradients, the step.
//
// A call has two parts. The first checks everything and sizes all scratch, and may allocate; the second is the loop,
// which neither allocates nor throws and answers errors as a zo_status. Whatever ends the loop, the adapter is then
// the same as before it, bit for bit. All mutable state of a device's core is in this class (its chain included).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "chain.h"
#include "planner.h"
#include "program.h"
#include "zo.h"

namespace cooperllm {

constexpr uint32_t kMaxGuides = 65536;

struct GuideTerm {
  uint32_t guide;  // the index it was set under
  double coefficient;
};

// z = isotropic_scale * s (.) v(seed) + sum_j coefficient_j * u_j on its active segments, zero elsewhere. In segments
// before `boundary` the noise is v(prefix_seed): directions that agree there share the runs of those segments.
struct Direction {
  uint64_t seed = 0;
  double isotropic_scale = 1.0;
  std::vector<GuideTerm> guides;
  std::vector<uint32_t> active_segments;  // empty: those of the call
  uint32_t boundary = 0;
  uint64_t prefix_seed = 0;

  uint64_t seed_in(uint32_t segment) const noexcept { return segment < boundary ? prefix_seed : seed; }
  bool same_prefix(const Direction& other) const noexcept;
};

// Sums over rows in order: weight * loss, weight * count, over all batches.
struct Losses {
  std::vector<double> loss_sum;
  std::vector<double> count;
};

struct Measurement {
  std::vector<double> rho;  // (loss_plus - loss_minus) / (2 epsilon), nats a unit of z'
  std::vector<double> loss_plus;
  std::vector<double> loss_minus;
};

struct Evaluation {
  double loss_sum = 0.0;
  double count = 0.0;
  uint64_t correct = 0;  // targets in rows of non-zero weight whose logit is the largest (the first of equals)
};

struct Streamed;  // see streamed.h

// What a loss is. The head takes what leaves segment exit_segment - 1 (0: the whole chain), and that is the local loss.
// With a weight, ChainFed's loss (arXiv 2604.06819): local + global_weight * global, where global is what the head says
// behind the auxiliary branches of segments exit_segment .. K - 1, in float64, row by row.
struct Objective {
  uint32_t exit_segment = 0;
  double global_weight = 0.0;
};

// theta' = round_stochastic(theta + sum_j coefficient_j * z'_j + sum_k coefficient_k * u_k) on the active segments.
struct Update {
  double epsilon = 0.0;
  uint64_t update_seed = 0;
  std::vector<uint32_t> active_segments;
  std::vector<Direction> directions;
  std::vector<double> coefficients;  // one a direction
  std::vector<GuideTerm> guides;
};

class LocalUpdate {
 public:
  LocalUpdate();
  ~LocalUpdate();

  // Throws std::bad_alloc, as the first part of every call below may.
  zo_status load(std::unique_ptr<Program> program, const ChainShape& shape, const std::vector<TensorSlice>& layout);

  Chain& chain() noexcept { return chain_; }
  const Chain& chain() const noexcept { return chain_; }
  Program& program() noexcept { return *program_; }
  const Program& program() const noexcept { return *program_; }

  // The caller keeps these arrays alive and unchanged. Null scale: 1.
  void set_scale(const float* scale) noexcept { scale_ = scale; }
  zo_status set_guide(uint32_t index, uint32_t segment, const float* values);
  zo_status clear_guide(uint32_t index, uint32_t segment);
  // Forgets every guide. Of `expected` ones directions may speak from then on; they are zero where they are not set.
  zo_status clear_guides(uint32_t expected = 0);

  // The losses of any strings of labels (see planner.h): labels[e * (K + 1) + segment], 0 in segments that do not run.
  zo_status losses(const std::vector<Batch>& batches, const std::vector<Direction>& directions, double epsilon,
                   const std::vector<Label>& labels, Losses* result, const Objective& objective = {});

  // The projected gradient of every direction.
  zo_status measure(const std::vector<Batch>& batches, const std::vector<Direction>& directions, double epsilon,
                    const std::vector<uint32_t>& active_segments, Measurement* result, const Objective& objective = {});

  // The same bits in streaming order, one segment a call, so that a guide's slice is needed for one call alone:
  // begin(), then for each of streamed_segments(), in order: set_guide() of that segment, advance(), clear_guide();
  // then finish(). Between calls the adapter is as it was, bit for bit, and nobody may move it, the scale or the
  // batches; hidden(), logits() and evaluate() may be called, others are refused. A call that fails ends it all, as
  // abandon() does, but for one out of order, which changes nothing. Both signs never run in one forward here. Each
  // direction's range is checked segment by segment, before that segment moves; whether it is below the grid is known
  // when all segments have been seen, by finish(). Holds a hidden state for every batch and distinct string.
  zo_status begin(const std::vector<Batch>& batches, const std::vector<Direction>& directions, double epsilon,
                  const std::vector<uint32_t>& active_segments, const Objective& objective = {});
  zo_status advance();
  zo_status finish(Measurement* result);
  void abandon() noexcept;
  const std::vector<uint32_t>& streamed_segments() const noexcept;  // empty where nothing has begun

  // The same without differences, for directions in the head alone: the slope of the loss along z'.
  zo_status slopes(const std::vector<Batch>& batches, const std::vector<Direction>& directions, double epsilon,
                   uint32_t exit_segment, std::vector<double>* rho);

  zo_status evaluate(const std::vector<Batch>& batches, Evaluation* result, const Objective& objective = {});
  zo_status logits(const Batch& batch, float* out);  // batch_examples * classes

  // The hidden state that enters a segment (K: the head): batch_examples * tokens * hidden_size.
  zo_status hidden(const Batch& batch, uint32_t segment, float* out);

  // Loads all methods that the whole chain runs; otherwise each is loaded by the first call that needs it.
  zo_status load_methods();

  // Both signs of a direction run in one forward on batches of at most so many tokens a row, where the program can and
  // directions share nothing but the unperturbed beginning. 0, the default: never. The scalars' last bits may differ.
  void set_pair_tokens(uint32_t tokens) noexcept { pair_tokens_ = tokens; }

  // Nothing is written unless all of it can be. `*clamped` counts the parameters that met the bound.
  zo_status update(const Update& update, uint64_t* clamped);

  // From any thread: what runs ends with ZO_STOPPED before its next segment, and so does every later call until
  // resume(). (A flag that a call cleared by itself could miss a stop that came a moment too early.)
  void stop() noexcept { stop_.store(true, std::memory_order_relaxed); }
  void resume() noexcept { stop_.store(false, std::memory_order_relaxed); }

  // One line about the last failure; empty where the status says all.
  const std::string& message() const noexcept { return message_; }

 private:
  zo_status fail(zo_status status, std::string message);
  zo_status label_directions(const std::vector<Direction>& directions, const std::vector<uint32_t>& active_segments);
  zo_status check_segments(const std::vector<uint32_t>& segments);
  zo_status check_objective(const Objective& objective);
  zo_status check_batches(const std::vector<Batch>& batches, uint32_t exit_segment);
  zo_status check_labels(const Batch& batch, bool* any);
  zo_status check_guides(const std::vector<GuideTerm>& guides);
  zo_status check_directions(const std::vector<Label>& labels);
  zo_status reserve_guides(const std::vector<Direction>& directions);
  zo_status check_idle();
  zo_status check_entry(const std::vector<Batch>& batches, const std::vector<Label>& labels);
  static std::string below_grid(size_t direction, double enough, int doublings);
  zo_status check_direction(size_t direction, const std::vector<bool>& segments);
  zo_status squared_norms(size_t direction, const std::vector<bool>& segments, double epsilon, double* error,
                          double* norm) noexcept;
  zo_status add_squares(size_t direction, uint32_t segment, double epsilon, double* error, double* norm) noexcept;
  zo_status rho_of(const Losses& losses, double epsilon, Measurement* result);
  static const std::vector<uint32_t>* segments_of(const Direction& direction,
                                                  const std::vector<uint32_t>* all) noexcept {
    return direction.active_segments.empty() ? all : &direction.active_segments;
  }
  zo_status check_slopes(const std::vector<Direction>& directions);
  bool covers(const Direction& direction, const std::vector<uint32_t>& all, uint32_t segment) const noexcept;
  zo_status load_for(const std::vector<Batch>& batches, Needs needs);
  void plan_pairs(const std::vector<Batch>& batches, const std::vector<Label>& labels, Needs* needs);
  uint32_t pair_start(const std::vector<Label>& labels) const noexcept;
  bool is_paired(const Batch& batch) const noexcept {
    return pair_segment_ < objective_.exit_segment && batch.tokens <= pair_tokens_;
  }
  bool has_global() const noexcept { return objective_.global_weight > 0.0; }

  // Streaming order.
  zo_status prepare(const std::vector<uint32_t>& active_segments, const Objective& objective);
  zo_status check_streamed_scalars();
  zo_status enter_all();
  zo_status check_level(uint32_t segment);
  zo_status judge_streamed();
  zo_status run_level(uint32_t segment) noexcept;
  zo_status run_label(size_t first_run, size_t last_run) noexcept;
  zo_status run_heads(size_t first_run, size_t last_run) noexcept;

  // The loop.
  zo_status run_plan(const Batch& batch, Losses* result) noexcept;
  zo_status run_pairs(const Batch& batch, const std::vector<Label>& labels, Losses* result) noexcept;
  zo_status move_to(uint32_t segment, Label label) noexcept;
  zo_status add(uint32_t segment, Label label, int multiplier) noexcept;
  zo_status add_to(float* theta, const TensorSlice& slice, Label label, int multiplier) noexcept;
  zo_status fill_pair(uint32_t segment, Label label) noexcept;
  uint32_t gather_guides(const std::vector<GuideTerm>& guides, const TensorSlice& slice, size_t scratch) noexcept;
  zo_direction on_tensor(const Direction& direction, const TensorSlice& slice, size_t scratch) noexcept;
  zo_step step_on(const Update& update, const TensorSlice& slice) noexcept;
  zo_status add_losses(const Batch& batch, const HeadResult& rows, uint32_t evaluation, Losses* result) noexcept;
  zo_status enter(const Batch& batch, uint32_t last) noexcept;
  zo_status forward(const Batch& batch, uint32_t last) noexcept;
  zo_status run_prefix(const Batch& batch, uint32_t last) noexcept;
  zo_status run_head(size_t slot, HeadResult* rows) noexcept;
  zo_status add_global(size_t slot, HeadResult* rows) noexcept;
  zo_status add_gradients(const std::vector<Batch>& batches) noexcept;
  zo_status slope_along(const Direction& direction, double* rho) noexcept;

  std::unique_ptr<Program> program_;
  Chain chain_;
  const float* scale_ = nullptr;
  std::vector<std::vector<const float*>> guides_;  // by index, then segment; null: zero there
  std::atomic<bool> stop_{false};
  std::string message_;

  // Of the call in progress.
  const std::vector<Direction>* directions_ = nullptr;
  double epsilon_ = 0.0;
  Objective objective_;  // exit_segment 1 .. K
  size_t branch_slot_ = 0;
  bool branch_is_current_ = false;  // branch_slot_ holds the branch of the state that the head is run on now
  std::vector<double> local_loss_, local_count_, local_correct_;  // by row
  Plan plan_;
  std::unique_ptr<Streamed> streamed_;
  uint32_t pair_tokens_ = 0;
  uint32_t pair_segment_ = 0;  // where both signs begin to differ; not below exit_segment: they run one by one
  std::vector<Label> at_;      // by segment: which perturbation is in the adapter now
  std::vector<Label> labels_;
  Losses losses_;
  // Of slopes(): over the head's parameters.
  std::vector<double> gradient_;
  std::vector<float> perturbed_;
  // By position in a direction's list of guides: what zo_direction points at.
  std::vector<const float*> guide_pointers_;
  std::vector<double> guide_coefficients_;
  std::vector<zo_direction> step_directions_;
  std::vector<double> step_coefficients_;
};

}  // namespace cooperllm
