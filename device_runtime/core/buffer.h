// Memory that is handed to a program: 64-byte aligned, with 128 readable bytes past the end, because vector kernels
// may load (never store) that far. Allocated at load or when a plan is made, never in a loop.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace cooperllm {

constexpr size_t kAlignment_bytes = 64;
constexpr size_t kReadablePastEnd_bytes = 128;

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size_bytes) { reserve(size_bytes); }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Grows to at least size_bytes, all zero; what was inside is lost. Throws std::bad_alloc.
  void reserve(size_t size_bytes) {
    if (data_ != nullptr && size_bytes <= size_bytes_) return;
    const size_t whole = (size_bytes + kReadablePastEnd_bytes + kAlignment_bytes - 1) / kAlignment_bytes;
    void* fresh = std::aligned_alloc(kAlignment_bytes, whole * kAlignment_bytes);
    if (fresh == nullptr) throw std::bad_alloc();
    std::memset(fresh, 0, whole * kAlignment_bytes);
    std::free(data_);
    data_ = fresh;
    size_bytes_ = size_bytes;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace cooperllm
