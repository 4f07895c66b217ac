// How many threads ExecuTorch's kernels use. There is one pool a process, and XNNPACK keeps a pointer to it, so whoever
// holds a program holds the pool's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

// Exported by libexecutorch_threadpool, but the wheel carries no header for it: only what is used here is declared.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t thread_count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace cooperllm {

class ThreadCount {
 public:
  static bool acquire(unsigned threads) {
    const std::lock_guard<std::mutex> hold(mutex_);
    auto* pool = executorch::extension::threadpool::get_threadpool();
    if (pool == nullptr || threads == 0) return false;
    if (pool->get_thread_count() != threads) {
      if (holders_ > 0 || !pool->_unsafe_reset_threadpool(threads)) return false;
    }
    ++holders_;
    return true;
  }
  static void release() {
    const std::lock_guard<std::mutex> hold(mutex_);
    --holders_;
  }

 private:
  static inline std::mutex mutex_;
  static inline int holders_ = 0;
};

}  // namespace cooperllm
