// LocalUpdate behind Python's types. Arrays are taken as they are (no copy) and kept alive here; the GIL is released
// while a call runs; a status that is not ZO_OK becomes CoreError here, outside every loop.
#pragma once

#include <atomic>
#include <map>
#include <optional>

#include "py_types.h"

namespace cooperllm {

class PyCore {
 public:
  PyCore(const std::string& program_path, const std::vector<LayoutEntry>& layout, uint32_t segments,
         uint32_t batch_examples, uint32_t max_tokens, uint32_t hidden_size, unsigned threads, uint32_t head_tokens,
         uint32_t vocabulary) {
    const ChainShape shape{segments, batch_examples, max_tokens, hidden_size, head_tokens, vocabulary};
    std::vector<TensorSlice> slices;
    slices.reserve(layout.size());
    for (const auto& [segment, offset, count, exponent, sizes] : layout) {
      if (sizes.size() > kMaxRank) raise_core_error(ZO_BAD_ARGUMENT, "a layout entry has more than 4 dimensions");
      TensorSlice slice{segment, offset, count, exponent, static_cast<int>(sizes.size()), {}};
      std::copy(sizes.begin(), sizes.end(), slice.sizes);
      slices.push_back(slice);
    }
    zo_status status = ZO_OK;
    std::string message;
    {
      const nb::gil_scoped_release released;
      auto program = open_program(program_path, threads, &status, &message);
      if (status == ZO_OK) {
        status = local_.load(std::move(program), shape, slices);
        message = local_.message();
      }
    }
    if (status != ZO_OK) raise_core_error(status, message);
  }

  nb::object adapter(nb::handle self) {
    return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(
        local_.chain().adapter(), {static_cast<size_t>(local_.chain().parameters())}, self));
  }

  void set_scale(std::optional<Floats> scale) {
    const Guard guard(*this);
    if (scale && scale->shape(0) != local_.chain().parameters()) {
      raise_core_error(ZO_BAD_ARGUMENT, "the scale must have one value a parameter");
    }
    local_.set_scale(scale ? scale->data() : nullptr);
    scale_ = std::move(scale);
  }

  void set_guide(uint32_t index, uint32_t segment, Floats values) {
    const Guard guard(*this);
    Chain& chain = local_.chain();
    if (segment <= chain.shape().segments && values.shape(0) != chain.segment_parameters(segment)) {
      raise_core_error(ZO_BAD_ARGUMENT, "a guide's slice must have one value a parameter of its segment");
    }
    require(local_.set_guide(index, segment, values.data()));
    guides_.insert_or_assign({index, segment}, std::move(values));
  }

  void clear_guide(uint32_t index, uint32_t segment) {
    const Guard guard(*this);
    require(local_.clear_guide(index, segment));
    guides_.erase({index, segment});
  }

  void clear_guides(uint32_t expected) {
    const Guard guard(*this);
    require(local_.clear_guides(expected));
    guides_.clear();
  }

  nb::object losses(const std::vector<PyBatch*>& batches, const std::vector<Direction>& directions, double epsilon,
                    LabelRows labels, uint32_t exit_segment, double global_weight) {
    const Guard guard(*this);
    const std::vector<Batch> views = view(batches);
    if (labels.shape(1) != local_.chain().shape().segments + 1) {
      raise_core_error(ZO_BAD_ARGUMENT, "labels must have a column for every segment and the head");
    }
    const std::vector<Label> rows(labels.data(), labels.data() + labels.size());
    Losses result;
    const Objective objective{exit_segment, global_weight};
    require(without_gil([&] { return local_.losses(views, directions, epsilon, rows, &result, objective); }));
    return nb::make_tuple(new_array(result.loss_sum), new_array(result.count));
  }

  Measurement measure(const std::vector<PyBatch*>& batches, const std::vector<Direction>& directions, double epsilon,
                      const std::vector<uint32_t>& active_segments, uint32_t exit_segment, double global_weight) {
    const Guard guard(*this);
    const std::vector<Batch> views = view(batches);
    Measurement result;
    const Objective objective{exit_segment, global_weight};
    require(
        without_gil([&] { return local_.measure(views, directions, epsilon, active_segments, &result, objective); }));
    return result;
  }

  std::vector<uint32_t> begin(const std::vector<PyBatch*>& batches, const std::vector<Direction>& directions,
                              double epsilon, const std::vector<uint32_t>& active_segments, uint32_t exit_segment,
                              double global_weight) {
    const Guard guard(*this);
    const std::vector<Batch> batch_views = view(batches);
    std::vector<PyBatch> held;
    held.reserve(batches.size());
    for (const PyBatch* batch : batches) held.push_back(*batch);
    const Objective objective{exit_segment, global_weight};
    require(without_gil([&] { return local_.begin(batch_views, directions, epsilon, active_segments, objective); }));
    streamed_batches_ = std::move(held);
    return local_.streamed_segments();
  }

  void advance() {
    const Guard guard(*this);
    const zo_status status = without_gil([&] { return local_.advance(); });
    let_go();
    require(status);
  }

  Measurement finish() {
    const Guard guard(*this);
    Measurement result;
    const zo_status status = local_.finish(&result);
    let_go();
    require(status);
    return result;
  }

  void abandon() {
    const Guard guard(*this);
    local_.abandon();
    let_go();
  }

  nb::object slopes(const std::vector<PyBatch*>& batches, const std::vector<Direction>& directions, double epsilon,
                    uint32_t exit_segment) {
    const Guard guard(*this);
    const std::vector<Batch> views = view(batches);
    std::vector<double> rho;
    require(without_gil([&] { return local_.slopes(views, directions, epsilon, exit_segment, &rho); }));
    return new_array(rho);
  }

  bool has_head_gradient() const { return local_.chain().has_head_gradient(); }

  std::tuple<double, double, uint64_t> evaluate(const std::vector<PyBatch*>& batches, uint32_t exit_segment,
                                                double global_weight) {
    const Guard guard(*this);
    const std::vector<Batch> views = view(batches);
    Evaluation result;
    const Objective objective{exit_segment, global_weight};
    require(without_gil([&] { return local_.evaluate(views, &result, objective); }));
    return {result.loss_sum, result.count, result.correct};
  }

  nb::object logits(PyBatch* batch) {
    const Guard guard(*this);
    const Batch one = view({batch})[0];
    const size_t rows = local_.chain().shape().batch_examples, classes = local_.chain().classes();
    float* data = new float[rows * classes];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    require(without_gil([&] { return local_.logits(one, data); }));
    return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, {rows, classes}, owner));
  }

  nb::object hidden(PyBatch* batch, uint32_t segment) {
    const Guard guard(*this);
    const Batch one = view({batch})[0];
    const size_t rows = local_.chain().shape().batch_examples, size = local_.chain().shape().hidden_size;
    float* data = new float[rows * one.tokens * size];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    require(without_gil([&] { return local_.hidden(one, segment, data); }));
    return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<3>>(data, {rows, one.tokens, size}, owner));
  }

  uint64_t update(double epsilon, uint64_t update_seed, std::vector<uint32_t> active_segments,
                  std::vector<Direction> directions, std::vector<double> coefficients,
                  std::vector<std::pair<uint32_t, double>> guides) {
    const Guard guard(*this);
    Update step{epsilon, update_seed, std::move(active_segments), std::move(directions), std::move(coefficients), {}};
    step.guides = terms(guides);
    uint64_t clamped = 0;
    require(without_gil([&] { return local_.update(step, &clamped); }));
    return clamped;
  }

  void load_methods() {
    const Guard guard(*this);
    require(without_gil([&] { return local_.load_methods(); }));
  }
  void unload_except(const std::vector<uint32_t>& segments, const std::vector<uint32_t>& auxiliaries) {
    const Guard guard(*this);
    local_.chain().unload_except(segments, auxiliaries);
  }
  void set_pair_tokens(uint32_t tokens) {
    const Guard guard(*this);
    local_.set_pair_tokens(tokens);
  }
  bool has_pairs(uint32_t first_segment, uint32_t exit_segment) const {
    const uint32_t segments = local_.chain().shape().segments;
    return exit_segment <= segments && local_.chain().has_pairs(first_segment, exit_segment);
  }
  size_t context_bytes() const { return local_.chain().context_bytes(); }
  size_t planned_bytes() const { return local_.program().planned_bytes(); }
  std::vector<std::string> loaded_methods() {
    const Guard guard(*this);
    return local_.chain().loaded_methods();
  }
  std::vector<uint32_t> auxiliary_segments() const {
    std::vector<uint32_t> found;
    for (uint32_t k = 0; k < local_.chain().shape().segments; ++k) {
      if (local_.chain().has_auxiliary(k)) found.push_back(k);
    }
    return found;
  }

  void stop() noexcept { local_.stop(); }
  void resume() noexcept { local_.resume(); }
  void poison_arena(bool before_every_run) {
    const Guard guard(*this);
    local_.program().poison_arena(before_every_run);
  }
  Counters counters() const { return local_.chain().counters; }
  void reset_counters() {
    const Guard guard(*this);
    local_.chain().reset_counters();
  }
  uint32_t classes() const { return local_.chain().classes(); }

 private:
  class Guard {  // one call at a time: they share the adapter
   public:
    explicit Guard(PyCore& core) : core_(core) {
      if (core_.busy_.exchange(true)) raise_core_error(ZO_BAD_ARGUMENT, "another thread's call is still running");
    }
    ~Guard() { core_.busy_.store(false); }

   private:
    PyCore& core_;
  };

  template <typename Call>
  static zo_status without_gil(const Call& call) {
    const nb::gil_scoped_release released;
    return call();
  }

  void require(zo_status status) const {
    if (status == ZO_OK) return;
    const bool by_program = status == ZO_PROGRAM_FAILED || status == ZO_PROGRAM_MISMATCH;
    raise_core_error(status,
                     by_program && local_.message().empty() ? local_.program().last_message() : local_.message());
  }

  std::vector<Batch> view(const std::vector<PyBatch*>& batches) const { return views(local_.chain(), batches); }

  // What a measurement in streaming order reads until its end.
  void let_go() {
    if (local_.streamed_segments().empty()) streamed_batches_.clear();
  }

  LocalUpdate local_;
  std::optional<Floats> scale_;
  std::map<std::pair<uint32_t, uint32_t>, Floats> guides_;  // by index and segment
  std::vector<PyBatch> streamed_batches_;
  std::atomic<bool> busy_{false};
};

}  // namespace cooperllm
