// The Python module device_runtime.core._core: the kernels here, everything about programs in bind_core.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bind_code.h"
#include "bind_core.h"
#include "zo.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Adapter = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Signs = nb::ndarray<int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Lanes = std::array<double, 8>;
using Guides = std::vector<std::pair<Values, double>>;

// Guides as the C ABI wants them. All pointers live as long as the arrays do.
struct GuideList {
  std::vector<const float*> values;
  std::vector<double> coefficients;
};

// An empty NumPy array may come as a null pointer, which the C ABI would refuse.
const float* pointer_of(const Values& values) {
  static const float nothing = 0;
  return values.size() == 0 ? &nothing : values.data();
}

GuideList list_guides(const Guides& guides, uint64_t count) {
  GuideList list;
  for (const auto& [values, coefficient] : guides) {
    if (values.size() != count) throw nb::value_error("a guide is not as long as its slice: hand over its slice");
    list.values.push_back(pointer_of(values));
    list.coefficients.push_back(coefficient);
  }
  return list;
}

// One direction on one slice, and the arrays that it points to.
struct SliceDirection {
  SliceDirection(uint64_t seed, double isotropic_scale, std::optional<Values> scale, Guides guides, uint64_t count)
      : scale_(std::move(scale)), guides_(std::move(guides)), list_(list_guides(guides_, count)), count_(count) {
    if (scale_ && scale_->size() != count) throw nb::value_error("a scale is not as long as its slice");
    raw_ = {seed,
            isotropic_scale,
            scale_ ? pointer_of(*scale_) : nullptr,
            static_cast<uint32_t>(list_.values.size()),
            list_.values.data(),
            list_.coefficients.data()};
  }
  SliceDirection(const SliceDirection&) = delete;
  SliceDirection& operator=(const SliceDirection&) = delete;

  const zo_direction& of(uint64_t count) const {
    if (count != count_) throw nb::value_error("a direction was made for another slice");
    return raw_;
  }

 private:
  std::optional<Values> scale_;
  Guides guides_;
  GuideList list_;
  uint64_t count_;
  zo_direction raw_;
};

zo_status perturb(Adapter theta, uint64_t start, int exponent, double epsilon, const SliceDirection& direction,
                  int multiplier) {
  const zo_direction& raw = direction.of(theta.size());
  nb::gil_scoped_release release;
  return zo_perturb(theta.data(), start, theta.size(), exponent, epsilon, &raw, multiplier);
}

std::tuple<zo_status, Lanes, Lanes> check_direction(uint64_t start, uint64_t count, int exponent, double epsilon,
                                                    const SliceDirection& direction, Lanes error, Lanes norm) {
  const zo_direction& raw = direction.of(count);
  nb::gil_scoped_release release;
  const zo_status status = zo_check_direction(start, count, exponent, epsilon, &raw, error.data(), norm.data());
  return {status, error, norm};
}

std::pair<double, double> add_lanes(const Lanes& lanes_error, const Lanes& lanes_norm, int exponent, double error,
                                    double norm) {
  zo_add_lanes(lanes_error.data(), lanes_norm.data(), exponent, &error, &norm);
  return {error, norm};
}

// The C structure of a step and the lists that it points to.
struct SliceStep {
  SliceStep(double epsilon, uint64_t update_seed, const std::vector<const SliceDirection*>& of_directions,
            std::vector<double> of_coefficients, const Guides& guides, uint64_t count)
      : coefficients(std::move(of_coefficients)), list(list_guides(guides, count)) {
    if (coefficients.size() != of_directions.size())
      throw nb::value_error("an update needs one coefficient a direction");
    for (const SliceDirection* direction : of_directions) directions.push_back(direction->of(count));
    raw = {epsilon,
           update_seed,
           static_cast<uint32_t>(directions.size()),
           directions.data(),
           coefficients.data(),
           static_cast<uint32_t>(list.values.size()),
           list.values.data(),
           list.coefficients.data()};
  }

  std::vector<zo_direction> directions;
  std::vector<double> coefficients;
  GuideList list;
  zo_step raw;
};

zo_status check_update(uint64_t start, uint64_t count, int exponent, double epsilon, uint64_t update_seed,
                       const std::vector<const SliceDirection*>& directions, std::vector<double> coefficients,
                       const Guides& guides) {
  const SliceStep step(epsilon, update_seed, directions, std::move(coefficients), guides, count);
  nb::gil_scoped_release release;
  return zo_check_update(start, count, exponent, &step.raw);
}

std::pair<zo_status, uint64_t> update(Adapter theta, uint64_t start, int exponent, double epsilon, uint64_t update_seed,
                                      const std::vector<const SliceDirection*>& directions,
                                      std::vector<double> coefficients, const Guides& guides) {
  const SliceStep step(epsilon, update_seed, directions, std::move(coefficients), guides, theta.size());
  uint64_t clamped = 0;
  nb::gil_scoped_release release;
  const zo_status status = zo_update(theta.data(), start, theta.size(), exponent, &step.raw, &clamped);
  return {status, clamped};
}

std::array<uint32_t, 4> philox(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
  std::array<uint32_t, 4> output;
  zo_philox(counter.data(), key.data(), output.data());
  return output;
}

void bind_kernels(nb::module_& m) {
  nb::enum_<zo_status>(m, "Status", "What a kernel answers; `message(status)` puts it in words.")
      .value("OK", ZO_OK)
      .value("OUT_OF_RANGE", ZO_OUT_OF_RANGE)
      .value("BELOW_GRID", ZO_BELOW_GRID)
      .value("NOT_FINITE", ZO_NOT_FINITE)
      .value("OFF_GRID", ZO_OFF_GRID)
      .value("BAD_ARGUMENT", ZO_BAD_ARGUMENT)
      .value("PROGRAM_FAILED", ZO_PROGRAM_FAILED)
      .value("PROGRAM_MISMATCH", ZO_PROGRAM_MISMATCH)
      .value("OUT_OF_MEMORY", ZO_OUT_OF_MEMORY)
      .value("LOSS_NOT_FINITE", ZO_LOSS_NOT_FINITE)
      .value("STOPPED", ZO_STOPPED)
      .value("DAMAGED", ZO_DAMAGED);
  nb::class_<SliceDirection>(m, "SliceDirection", "A direction on one slice; guides are (values, coefficient) pairs.")
      .def(nb::init<uint64_t, double, std::optional<Values>, Guides, uint64_t>(), "seed"_a, "isotropic_scale"_a,
           "scale"_a.none(), "guides"_a, "count"_a);
  m.def("message", [](zo_status status) { return zo_status_message(status); }, "status"_a);
  m.def("perturb", &perturb, "theta"_a.noconvert(), "start"_a, "exponent"_a, "epsilon"_a, "direction"_a,
        "multiplier"_a);
  m.def("check_direction", &check_direction, "start"_a, "count"_a, "exponent"_a, "epsilon"_a, "direction"_a,
        "lanes_error"_a, "lanes_norm"_a);
  m.def("add_lanes", &add_lanes, "lanes_error"_a, "lanes_norm"_a, "exponent"_a, "error"_a, "norm"_a);
  m.def("judge_direction", &zo_judge_direction, "error"_a, "norm"_a);
  m.def("check_update", &check_update, "start"_a, "count"_a, "exponent"_a, "epsilon"_a, "update_seed"_a, "directions"_a,
        "coefficients"_a, "guides"_a);
  m.def("update", &update, "theta"_a.noconvert(), "start"_a, "exponent"_a, "epsilon"_a, "update_seed"_a, "directions"_a,
        "coefficients"_a, "guides"_a);
  m.def(
      "check_adapter",
      [](Values theta, int exponent) { return zo_check_adapter(pointer_of(theta), theta.size(), exponent); }, "theta"_a,
      "exponent"_a);
  m.def("philox", &philox, "counter"_a, "key"_a);
  m.def(
      "fill_signs",
      [](uint64_t seed, uint64_t start, Signs signs) { return zo_signs(seed, start, signs.size(), signs.data()); },
      "seed"_a, "start"_a, "signs"_a.noconvert());
  m.def(
      "xor_blocks",
      [](uint64_t seed, uint32_t stream, uint64_t first_block, uint64_t blocks) {
        uint64_t words[2];
        const zo_status status = zo_xor_blocks(seed, stream, first_block, blocks, words);
        return std::make_tuple(status, words[0], words[1]);
      },
      "seed"_a, "stream"_a, "first_block"_a, "blocks"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("instructions", &zo_instructions);
  m.def("use_instructions", [](const std::string& name) { return zo_use_instructions(name.c_str()); }, "name"_a);
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // an application may keep our objects in its modules until the interpreter ends
  m.doc() = "The device core: kernels of the adapter's arithmetic, and programs that run with it.";
  bind_kernels(m);
  cooperllm::bind_code(m);
  cooperllm::bind_core(m);
}
