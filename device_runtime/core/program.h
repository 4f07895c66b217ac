// The one seam to ExecuTorch: a program is a file with named methods that take and give tensors.
//
// Everything above it (chain, planner, local update) sees only this interface, so a C++ test can put a tiny program of
// its own in its place, and nothing but program.cpp includes an ExecuTorch header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "status.h"

namespace cooperllm {

constexpr int kMaxRank = 4;

enum class Kind : uint8_t { kFloat32, kInt64, kOther };

// A tensor that somebody else owns: contiguous, row-major.
struct Tensor {
  void* data = nullptr;
  Kind kind = Kind::kFloat32;
  int rank = 0;
  int32_t sizes[kMaxRank] = {};

  size_t count() const noexcept {
    size_t product = 1;
    for (int i = 0; i < rank; ++i) product *= static_cast<size_t>(sizes[i]);
    return product;
  }
  size_t size_bytes() const noexcept { return count() * (kind == Kind::kInt64 ? 8 : 4); }

  bool same_shape(const Tensor& other) const noexcept {
    if (kind != other.kind || rank != other.rank) return false;
    return std::memcmp(sizes, other.sizes, sizeof(int32_t) * static_cast<size_t>(rank)) == 0;
  }
};

class Program {
 public:
  virtual ~Program() = default;

  virtual bool has_method(const char* name) const noexcept = 0;

  // The number of a method, which the calls below want. Nothing of it is loaded. ZO_PROGRAM_MISMATCH: there is none, or
  // it was made for a delegate that this process has not.
  virtual zo_status find_method(const char* name, int* method) = 0;

  // Does a method's one-time work (packing of weights), without which it does not run. May allocate.
  virtual zo_status load_method(int method) = 0;
  virtual bool is_loaded(int method) const noexcept = 0;

  // Undoes load_method and gives the memory back to the system.
  virtual void unload_methods(const std::vector<int>& methods) noexcept = 0;

  // How many inputs and outputs, and the largest shape of each (`data` is null); of methods that are not loaded, too.
  virtual size_t input_count(int method) const noexcept = 0;
  virtual size_t output_count(int method) const noexcept = 0;
  virtual zo_status input_meta(int method, size_t index, Tensor* meta) const noexcept = 0;
  virtual zo_status output_meta(int method, size_t index, Tensor* meta) const noexcept = 0;

  // Runs a loaded method. Inputs are read where they lie and only during the call. Outputs are filled in; they lie in
  // memory that the next run of ANY method overwrites, so whoever needs one for longer copies it.
  virtual zo_status run(int method, const Tensor* inputs, size_t input_count, Tensor* outputs,
                        size_t output_count) noexcept = 0;

  // Gives the file's resident pages back to the system; what is needed of them is read again.
  virtual void release_pages() noexcept = 0;

  // The arenas that all methods share: activations, without weights.
  virtual size_t planned_bytes() const noexcept { return 0; }

  // For tests: from now on every run first overwrites all that methods may leave behind for each other.
  virtual void poison_arena(bool before_every_run) noexcept = 0;

  // What the last failure said, one line; empty if it said nothing.
  virtual const char* last_message() const noexcept = 0;
};

// Maps an ExecuTorch program. `threads` is of the process: the first program sets it, and while any program lives a
// different number is refused with ZO_BAD_ARGUMENT (XNNPACK keeps a pointer to the pool). On failure the result is
// null, `*status` says why and `*message` in words.
std::unique_ptr<Program> open_program(const std::string& path, unsigned threads, zo_status* status,
                                      std::string* message);

}  // namespace cooperllm
