// Binds the coder of integers and guides, declared in zo_code.h.
#pragma once

#include <nanobind/nanobind.h>

namespace cooperllm {

void bind_code(nanobind::module_& m);

}  // namespace cooperllm
