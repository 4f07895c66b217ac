// What ExecuTorch says when something fails: its errors as this core's statuses, and the words that go with the last
// one.
#pragma once

#include <executorch/runtime/core/error.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <cstdio>

#include "status.h"

namespace cooperllm {

inline thread_local char last_log[512];

// ExecuTorch explains its errors only in its log. The last one is kept for the exception's text instead of being
// printed; a fatal one is printed, because the process ends there.
inline void keep_log(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
                     const char* message, size_t) {
  if (level != et_pal_log_level_t::kError && level != et_pal_log_level_t::kFatal) return;
  std::snprintf(last_log, sizeof(last_log), "%s", message);
  if (level == et_pal_log_level_t::kFatal) std::fprintf(stderr, "executorch: %s (%s:%zu)\n", message, file, line);
}

inline zo_status status_of(executorch::runtime::Error error) noexcept {
  using executorch::runtime::Error;
  switch (error) {
    case Error::Ok:
      return ZO_OK;
    case Error::MemoryAllocationFailed:
    case Error::OutOfResources:
    case Error::DelegateMemoryAllocationFailed:
      return ZO_OUT_OF_MEMORY;
    case Error::InvalidProgram:
    case Error::OperatorMissing:
    case Error::DelegateInvalidCompatibility:
      return ZO_PROGRAM_MISMATCH;
    default:
      return ZO_PROGRAM_FAILED;
  }
}

inline zo_status failed(executorch::runtime::Error error) noexcept {
  if (last_log[0] == '\0')
    std::snprintf(last_log, sizeof(last_log), "ExecuTorch answered %s", executorch::runtime::to_string(error));
  return status_of(error);
}

inline void start_runtime() {
  static const bool once = [] {
    executorch::runtime::runtime_init();
    return executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_log, __FILE__));
  }();
  (void)once;
}

}  // namespace cooperllm
