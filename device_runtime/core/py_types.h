// The arrays and small values that cross between Python and the core. Arrays are taken as they are, without a copy.
#pragma once

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "local_update.h"

namespace cooperllm {

namespace nb = nanobind;

// Raises device_runtime.core.CoreError with the status's name and message, and `detail` where there is one.
[[noreturn]] void raise_core_error(zo_status status, const std::string& detail);

using Int64s2 = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Int64s = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;  // of one or two dimensions
using Floats3 = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LabelRows = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using LayoutEntry = std::tuple<uint32_t, uint64_t, uint64_t, int, std::vector<int32_t>>;

inline std::vector<GuideTerm> terms(const std::vector<std::pair<uint32_t, double>>& guides) {
  std::vector<GuideTerm> made;
  made.reserve(guides.size());
  for (const auto& [index, coefficient] : guides) made.push_back({index, coefficient});
  return made;
}

struct PyBatch {
  Int64s2 input_ids, attention_mask;
  Int64s labels;
  Doubles weights;
  std::optional<Floats3> hidden;
  uint32_t first_segment;
};

// A batch's labels are one a row, or one a token.
inline void check_labels(const Chain& chain, const Int64s& labels, size_t tokens) {
  const bool per_token = chain.targets_are_tokens();
  if (labels.ndim() != (per_token ? 2u : 1u) || labels.shape(0) != chain.shape().batch_examples ||
      (per_token && labels.shape(1) != tokens)) {
    raise_core_error(ZO_BAD_ARGUMENT, per_token ? "a batch's labels must be one a token, in the shape of its ids"
                                                : "a batch's labels must be one a row");
  }
}

// The arrays of batches as the core takes them, once their shapes fit.
inline std::vector<Batch> views(const Chain& chain, const std::vector<PyBatch*>& batches) {
  const size_t rows = chain.shape().batch_examples;
  std::vector<Batch> made;
  made.reserve(batches.size());
  for (const PyBatch* batch : batches) {
    if (batch == nullptr) raise_core_error(ZO_BAD_ARGUMENT, "a batch is None");
    const size_t tokens = batch->input_ids.shape(1);
    if (batch->input_ids.shape(0) != rows || batch->attention_mask.shape(0) != rows ||
        batch->attention_mask.shape(1) != tokens || batch->weights.shape(0) != rows) {
      raise_core_error(ZO_BAD_ARGUMENT, "a batch must have exactly " + std::to_string(rows) +
                                            " rows (pad with rows of weight 0) and a mask like its ids");
    }
    check_labels(chain, batch->labels, tokens);
    const std::optional<Floats3>& hidden = batch->hidden;
    if (hidden &&
        (hidden->shape(0) != rows || hidden->shape(1) != tokens || hidden->shape(2) != chain.shape().hidden_size)) {
      raise_core_error(ZO_BAD_ARGUMENT, "a batch's hidden state must have the shape (rows, tokens, hidden size)");
    }
    made.push_back({batch->input_ids.data(), batch->attention_mask.data(), batch->labels.data(), batch->weights.data(),
                    static_cast<uint32_t>(tokens), hidden ? hidden->data() : nullptr, batch->first_segment});
  }
  return made;
}

template <typename T>
nb::object new_array(const std::vector<T>& values) {
  T* data = new T[values.size() + 1];
  std::copy(values.begin(), values.end(), data);
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {values.size()}, owner));
}

}  // namespace cooperllm
