// What Python sees of the core: Core and its small arguments and results, the planner, CoreError.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <numeric>

#include "bind_core.h"
#include "planner.h"
#include "py_core.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cooperllm {
namespace {

PyObject* core_error = nullptr;

const char* name_of(zo_status status) {
  switch (status) {
    case ZO_OK:
      return "OK";
    case ZO_OUT_OF_RANGE:
      return "OUT_OF_RANGE";
    case ZO_BELOW_GRID:
      return "BELOW_GRID";
    case ZO_NOT_FINITE:
      return "NOT_FINITE";
    case ZO_OFF_GRID:
      return "OFF_GRID";
    case ZO_BAD_ARGUMENT:
      return "BAD_ARGUMENT";
    case ZO_PROGRAM_FAILED:
      return "PROGRAM_FAILED";
    case ZO_PROGRAM_MISMATCH:
      return "PROGRAM_MISMATCH";
    case ZO_OUT_OF_MEMORY:
      return "OUT_OF_MEMORY";
    case ZO_LOSS_NOT_FINITE:
      return "LOSS_NOT_FINITE";
    case ZO_STOPPED:
      return "STOPPED";
    case ZO_DAMAGED:
      return "DAMAGED";
  }
  return "UNKNOWN";
}

void bind_values(nb::module_& m) {
  nb::class_<PyBatch>(m, "Batch",
                      "A padded batch: int64 ids and mask [B, T], int64 labels [B] or [B, T], float64 weights [B].")
      .def(
          "__init__",
          [](PyBatch* self, Int64s2 input_ids, Int64s2 attention_mask, Int64s labels, Doubles weights,
             std::optional<Floats3> hidden, uint32_t first_segment) {
            new (self) PyBatch{std::move(input_ids), std::move(attention_mask), std::move(labels),
                               std::move(weights),   std::move(hidden),         first_segment};
          },
          "input_ids"_a, "attention_mask"_a, "labels"_a, "weights"_a, "hidden"_a.none() = nb::none(),
          "first_segment"_a = 0);
  nb::class_<Direction>(m, "Direction", "z = isotropic_scale * s (.) v(seed) + sum_j c_j * u_j on its active segments.")
      .def(
          "__init__",
          [](Direction* self, uint64_t seed, double isotropic_scale,
             const std::vector<std::pair<uint32_t, double>>& guides, std::vector<uint32_t> active_segments,
             uint32_t boundary, uint64_t prefix_seed) {
            new (self)
                Direction{seed, isotropic_scale, terms(guides), std::move(active_segments), boundary, prefix_seed};
          },
          "seed"_a, "isotropic_scale"_a = 1.0, "guides"_a = nb::list(), "active_segments"_a = nb::list(),
          "boundary"_a = 0, "prefix_seed"_a = 0);
  nb::class_<Measurement>(m, "Measurement", "What measure() answers: one float64 a direction.")
      .def_prop_ro("rho", [](const Measurement& self) { return new_array(self.rho); })
      .def_prop_ro("loss_plus", [](const Measurement& self) { return new_array(self.loss_plus); })
      .def_prop_ro("loss_minus", [](const Measurement& self) { return new_array(self.loss_minus); });
  nb::class_<Counters>(m, "Counters", "Runs and time since the start or reset_counters().")
      .def_ro("embed_runs", &Counters::embed_runs)
      .def_prop_ro("segment_runs", [](const Counters& self) { return self.segment_runs; })
      .def_prop_ro("pair_runs", [](const Counters& self) { return self.pair_runs; })
      .def_prop_ro("auxiliary_runs", [](const Counters& self) { return self.auxiliary_runs; })
      .def_prop_ro("segment_ns", [](const Counters& self) { return self.segment_ns; })
      .def_prop_ro("segment_perturb_ns", [](const Counters& self) { return self.segment_perturb_ns; })
      .def_prop_ro("segment_check_ns", [](const Counters& self) { return self.segment_check_ns; })
      .def_ro("method_loads", &Counters::method_loads)
      .def_ro("forward_ns", &Counters::forward_ns)
      .def_prop_ro("perturb_ns",
                   [](const Counters& self) {
                     return std::accumulate(self.segment_perturb_ns.begin(), self.segment_perturb_ns.end(),
                                            uint64_t{0});
                   })
      .def_ro("total_ns", &Counters::total_ns);
}

nb::list planned_runs(const Plan& plan) {
  nb::list rows;
  for (const PlannedRun& run : plan.runs()) {
    nb::list evaluations;
    for (uint32_t i = 0; i < run.evaluation_count; ++i) evaluations.append(plan.order()[run.first_evaluation + i]);
    rows.append(nb::make_tuple(run.position, run.label, run.from_slot, run.to_slot, evaluations));
  }
  return rows;
}

void bind_planner(nb::module_& m) {
  nb::class_<Plan>(m, "Plan", "The fewest segment runs for strings of labels, one row an evaluation.")
      .def(
          "__init__",
          [](Plan* self, const LabelRows& labels, bool by_level) {
            new (self) Plan();
            const auto build = by_level ? &Plan::build_by_level : &Plan::build;
            (self->*build)(labels.data(), labels.shape(0), labels.shape(1));
          },
          "labels"_a, "by_level"_a = false)
      .def_prop_ro("runs", &planned_runs, "(position, label, from_slot, to_slot, evaluations) in order.")
      .def_prop_ro("slots", &Plan::slots, "How many hidden states are held at once.");
}

void bind_class(nb::module_& m) {
  nb::class_<PyCore>(m, "Core", "One program, one adapter in memory, and the local update over them.")
      .def(nb::init<const std::string&, const std::vector<LayoutEntry>&, uint32_t, uint32_t, uint32_t, uint32_t,
                    unsigned, uint32_t, uint32_t>(),
           "program_path"_a, "layout"_a, "segments"_a, "batch_examples"_a, "max_tokens"_a, "hidden_size"_a,
           "threads"_a = 1, "head_tokens"_a = 0, "vocabulary"_a = 0)
      .def_prop_ro("adapter", [](nb::handle self) { return nb::cast<PyCore&>(self).adapter(self); })
      .def_prop_ro("classes", &PyCore::classes)
      .def_prop_ro("counters", &PyCore::counters)
      .def("reset_counters", &PyCore::reset_counters)
      .def("set_scale", &PyCore::set_scale, "scale"_a.none())
      .def("set_guide", &PyCore::set_guide, "index"_a, "segment"_a, "values"_a)
      .def("clear_guide", &PyCore::clear_guide, "index"_a, "segment"_a)
      .def("clear_guides", &PyCore::clear_guides, "expected"_a = 0)
      .def("losses", &PyCore::losses, "batches"_a, "directions"_a, "epsilon"_a, "labels"_a, "exit_segment"_a = 0,
           "global_weight"_a = 0.0)
      .def("measure", &PyCore::measure, "batches"_a, "directions"_a, "epsilon"_a, "active_segments"_a,
           "exit_segment"_a = 0, "global_weight"_a = 0.0)
      .def("begin", &PyCore::begin, "batches"_a, "directions"_a, "epsilon"_a, "active_segments"_a, "exit_segment"_a = 0,
           "global_weight"_a = 0.0)
      .def("advance", &PyCore::advance)
      .def("finish", &PyCore::finish)
      .def("abandon", &PyCore::abandon)
      .def("slopes", &PyCore::slopes, "batches"_a, "directions"_a, "epsilon"_a, "exit_segment"_a = 0)
      .def_prop_ro("has_head_gradient", &PyCore::has_head_gradient)
      .def("evaluate", &PyCore::evaluate, "batches"_a, "exit_segment"_a = 0, "global_weight"_a = 0.0)
      .def("logits", &PyCore::logits, "batch"_a)
      .def("hidden", &PyCore::hidden, "batch"_a, "segment"_a)
      .def("update", &PyCore::update, "epsilon"_a, "update_seed"_a, "active_segments"_a, "directions"_a,
           "coefficients"_a, "guides"_a = nb::list())
      .def("load_methods", &PyCore::load_methods)
      .def("set_pair_tokens", &PyCore::set_pair_tokens, "tokens"_a)
      .def("has_pairs", &PyCore::has_pairs, "first_segment"_a, "exit_segment"_a)
      .def("unload_except", &PyCore::unload_except, "segments"_a, "auxiliaries"_a = nb::list())
      .def_prop_ro("context_bytes", &PyCore::context_bytes)
      .def_prop_ro("planned_bytes", &PyCore::planned_bytes)
      .def_prop_ro("loaded_methods", &PyCore::loaded_methods)
      .def_prop_ro("auxiliary_segments", &PyCore::auxiliary_segments)
      .def("stop", &PyCore::stop)
      .def("resume", &PyCore::resume)
      .def("poison_arena", &PyCore::poison_arena, "before_every_run"_a);
}

}  // namespace

void raise_core_error(zo_status status, const std::string& detail) {
  const std::string text = detail.empty() ? zo_status_message(status) : detail;
  nb::object error = nb::borrow(core_error)(text);
  error.attr("status") = name_of(status);
  PyErr_SetObject(core_error, error.ptr());
  throw nb::python_error();
}

void bind_core(nb::module_& m) {
  core_error = PyErr_NewExceptionWithDoc(
      "device_runtime.core.CoreError",
      "The core refused a call or could not finish it; `status` is the status's name, the message is one line.",
      PyExc_RuntimeError, nullptr);
  if (core_error == nullptr) throw nb::python_error();
  m.attr("CoreError") = nb::borrow(core_error);
  bind_values(m);
  bind_planner(m);
  bind_class(m);
}

}  // namespace cooperllm
