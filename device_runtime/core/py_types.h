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

template <typename T>
nb::object new_array(const std::vector<T>& values) {
  T* data = new T[values.size() + 1];
  std::copy(values.begin(), values.end(), data);
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {values.size()}, owner));
}

}  // namespace cooperllm
