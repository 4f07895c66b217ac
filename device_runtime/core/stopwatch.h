// Time for the counters: steady, in nanoseconds.
#pragma once

#include <chrono>
#include <cstdint>

namespace cooperllm {

class Stopwatch {  // adds the time of its scope to a counter
 public:
  explicit Stopwatch(uint64_t* total_ns) noexcept : total_ns_(total_ns), start_ns_(now_ns()) {}
  ~Stopwatch() { *total_ns_ += now_ns() - start_ns_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  static uint64_t now_ns() noexcept {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(since).count());
  }

  uint64_t* total_ns_;
  uint64_t start_ns_;
};

}  // namespace cooperllm
