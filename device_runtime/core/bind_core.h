// The part of the Python module that is about programs; the kernels are bound in bind.cpp.
#pragma once

#include <nanobind/nanobind.h>

namespace cooperllm {

void bind_core(nanobind::module_& m);

}  // namespace cooperllm
