// A small program of the tests' own, a LocalUpdate over it, and a count of every heap allocation: malloc and its kin
// are counted through the linker's --wrap, operator new through its replacement. For one translation unit.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "local_update.h"

static std::atomic<long> allocations{0};

extern "C" {
void* __real_malloc(size_t);
void* __real_calloc(size_t, size_t);
void* __real_realloc(void*, size_t);
void* __real_aligned_alloc(size_t, size_t);
void* __wrap_malloc(size_t size) { return ++allocations, __real_malloc(size); }
void* __wrap_calloc(size_t count, size_t size) { return ++allocations, __real_calloc(count, size); }
void* __wrap_realloc(void* old, size_t size) { return ++allocations, __real_realloc(old, size); }
void* __wrap_aligned_alloc(size_t alignment, size_t size) {
  return ++allocations, __real_aligned_alloc(alignment, size);
}
}
void* operator new(size_t size) {
  ++allocations;
  void* made = __real_malloc(size);
  if (made == nullptr) throw std::bad_alloc();
  return made;
}
void operator delete(void* old) noexcept { std::free(old); }
void operator delete(void* old, size_t) noexcept { std::free(old); }

using namespace cooperllm;

namespace {

constexpr int32_t kRows = 2, kTokens = 4, kWidth = 8, kClasses = 3;
constexpr int kSegments = 3;
constexpr size_t kWeights = 200;  // parameters of each segment

Tensor shaped(Kind kind, std::initializer_list<int32_t> sizes) {
  Tensor made;
  made.kind = kind;
  for (const int32_t size : sizes) made.sizes[made.rank++] = size;
  return made;
}

// hidden = id; segment: hidden = tanh(hidden + mean(adapter slice)); loss = 1 + mean(hidden) * mean(head's slice).
// auxiliary: hidden = hidden + mean(adapter slice), which is the identity for a slice of zeros. pair: segment on each
// half of twice the rows, with its own slice.
class SmallProgram final : public Program {
 public:
  SmallProgram(bool with_auxiliaries, bool with_pairs) : auxiliaries(with_auxiliaries), pairs(with_pairs) {}

  bool has_method(const char* name) const noexcept override {
    return std::strcmp(name, "head_gradient") != 0 && (auxiliaries || name[0] != 'a') && (pairs || name[0] != 'p');
  }
  zo_status find_method(const char* name, int* method) override {
    *method = std::strcmp(name, "embed") == 0  ? kEmbed
              : std::strcmp(name, "head") == 0 ? kHead
              : name[0] == 's'                 ? name[8] - '0'
              : name[0] == 'p'                 ? kFirstPair + name[5] - '0'
                                               : kFirstAuxiliary + name[10] - '0';
    return ZO_OK;
  }
  zo_status load_method(int method) override {
    if (method == fail_load) return ZO_OUT_OF_MEMORY;
    loaded[method] = new char[64];  // as a real program would
    return ZO_OK;
  }
  bool is_loaded(int method) const noexcept override { return loaded[method] != nullptr; }
  void unload_methods(const std::vector<int>& methods) noexcept override {
    for (const int method : methods) {
      delete[] loaded[method];
      loaded[method] = nullptr;
    }
  }
  ~SmallProgram() override { unload_methods({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}); }

  size_t input_count(int method) const noexcept override {
    return is_segment(method) || is_pair(method) ? 3 : method == kHead ? 4 : 2;
  }
  size_t output_count(int method) const noexcept override { return method == kEmbed ? 2 : method == kHead ? 3 : 1; }
  zo_status input_meta(int method, size_t index, Tensor* meta) const noexcept override {
    const Tensor hidden = shaped(Kind::kFloat32, {kRows, kTokens, kWidth}),
                 mask = shaped(Kind::kFloat32, {kRows, kTokens});
    const Tensor ids = shaped(Kind::kInt64, {kRows, kTokens}), weights = shaped(Kind::kFloat32, {kWeights});
    const Tensor labels = shaped(Kind::kInt64, {kRows});
    if (method == kEmbed) return *meta = ids, ZO_OK;
    if (is_pair(method)) {
      const Tensor doubled[] = {shaped(Kind::kFloat32, {2 * kRows, kTokens, kWidth}),
                                shaped(Kind::kFloat32, {2 * kRows, kTokens}), shaped(Kind::kFloat32, {2, kWeights})};
      return *meta = doubled[index], ZO_OK;
    }
    if (method >= kFirstAuxiliary) return *meta = index == 0 ? hidden : weights, ZO_OK;
    const Tensor inputs[] = {hidden, mask, method == kHead ? labels : weights, weights};
    return *meta = inputs[index], ZO_OK;
  }
  zo_status output_meta(int method, size_t index, Tensor* meta) const noexcept override {
    if (method != kHead) {
      const int32_t rows = is_pair(method) ? 2 * kRows : kRows;
      *meta = index == 0 ? shaped(Kind::kFloat32, {rows, kTokens, kWidth}) : shaped(Kind::kFloat32, {kRows, kTokens});
    } else {
      *meta = index == 2 ? shaped(Kind::kFloat32, {kRows, kClasses}) : shaped(Kind::kFloat32, {kRows});
    }
    return ZO_OK;
  }
  zo_status run(int method, const Tensor* inputs, size_t count, Tensor* outputs, size_t) noexcept override {
    if (runs == 0) allocations_at_first = allocations;
    allocations_at_last = allocations;
    if (stop_at == runs && to_stop != nullptr) to_stop->stop();
    if (runs++ == fail_at || !is_loaded(method)) return ZO_PROGRAM_FAILED;
    std::memset(arena, 0xFF, sizeof(arena));  // what another method left is gone
    float* hidden = arena;
    double mean = method == kEmbed ? 0.0 : mean_of(inputs[count - 1].data, 0);
    const int values = kRows * kTokens * kWidth;
    for (int i = 0; i < 2 * values && is_pair(method); ++i) {
      mean = mean_of(inputs[count - 1].data, i < values ? 0 : kWeights);
      hidden[i] = std::tanh(static_cast<const float*>(inputs[0].data)[i] + static_cast<float>(mean));
    }
    for (int i = 0; i < values && !is_pair(method); ++i) {
      if (method == kEmbed)
        hidden[i] = static_cast<float>(static_cast<const int64_t*>(inputs[0].data)[i / kWidth]) * 0.01F;
      else if (is_segment(method))
        hidden[i] = std::tanh(static_cast<const float*>(inputs[0].data)[i] + static_cast<float>(mean));
      else if (method != kHead)
        hidden[i] = static_cast<const float*>(inputs[0].data)[i] + static_cast<float>(mean);
    }
    for (size_t i = 0; i < output_count(method); ++i) {
      output_meta(method, i, &outputs[i]);
      outputs[i].data = hidden;
    }
    if (method == kEmbed) outputs[1].data = std::fill_n(arena + 512, kRows * kTokens, 0.0F) - kRows * kTokens;
    if (method != kHead) return ZO_OK;
    for (int row = 0; row < kRows; ++row) {
      arena[row] = 1.0F + static_cast<const float*>(inputs[0].data)[row * kTokens * kWidth] * static_cast<float>(mean);
      arena[64 + row] = 1.0F;
    }
    std::fill_n(arena + 128, kRows * kClasses, 0.0F);
    outputs[1].data = arena + 64;
    outputs[2].data = arena + 128;
    return ZO_OK;
  }
  void release_pages() noexcept override {}
  void poison_arena(bool) noexcept override {}
  const char* last_message() const noexcept override { return "the test's program failed"; }

  static constexpr int kHead = kSegments, kEmbed = kSegments + 1, kFirstAuxiliary = kSegments + 2;
  static constexpr int kFirstPair = kFirstAuxiliary + kSegments;
  static bool is_segment(int method) { return method < kSegments; }
  static bool is_pair(int method) { return method >= kFirstPair; }
  static double mean_of(const void* weights, size_t first) {
    double mean = 0;
    for (size_t i = 0; i < kWeights; ++i)
      mean += static_cast<double>(static_cast<const float*>(weights)[first + i]) / kWeights;
    return mean;
  }

  const bool auxiliaries, pairs;
  char* loaded[3 * kSegments + 2] = {};
  float arena[1024];
  long runs = 0, fail_at = -1, stop_at = -1;
  int fail_load = -1;
  long allocations_at_first = 0, allocations_at_last = 0;
  LocalUpdate* to_stop = nullptr;
};

int failures = 0;

void check(bool good, const char* what) {
  std::printf("%s: %s\n", good ? "ok" : "FAILED", what);
  failures += good ? 0 : 1;
}

struct Bench {
  explicit Bench(bool auxiliaries = false, bool pairs = false) {
    auto owned = std::make_unique<SmallProgram>(auxiliaries, pairs);
    program = owned.get();
    std::vector<TensorSlice> layout;
    for (uint32_t s = 0; s <= kSegments; ++s) {
      layout.push_back({s, s * kWeights, kWeights, 20, 1, {static_cast<int32_t>(kWeights)}});
    }
    loaded = local.load(std::move(owned), {kSegments, kRows, kTokens, kWidth}, layout);
    for (size_t i = 0; i < 4 * kWeights; ++i) local.chain().adapter()[i] = static_cast<float>(i % 7) * 0.125F;
    before.assign(local.chain().adapter(), local.chain().adapter() + 4 * kWeights);
    guide.assign(kWeights, 0.01F);
    local.set_guide(0, 1, guide.data());
    for (uint64_t seed = 0; seed < 3; ++seed) directions.push_back({seed, 1.0, {{0, 0.5}}, {}});
    batches.assign(2, {ids, mask, labels, weights, kTokens});
  }
  zo_status measure(const std::vector<uint32_t>& active = {1, 2, 3}, const Objective& objective = {}) {
    program->runs = 0;
    return local.measure(batches, directions, 1e-3, active, &measured, objective);
  }
  bool restored() const { return std::memcmp(local.chain().adapter(), before.data(), before.size() * 4) == 0; }

  int64_t ids[kRows * kTokens] = {1, 2, 3, 4, 5, 6, 7, 8}, mask[kRows * kTokens] = {1, 1, 1, 1, 1, 1, 1, 1};
  int64_t labels[kRows] = {0, 1};
  double weights[kRows] = {1.0, 1.0};
  LocalUpdate local;
  SmallProgram* program;
  zo_status loaded;
  std::vector<float> before, guide;
  std::vector<Direction> directions;
  std::vector<Batch> batches;
  Measurement measured;
};

}  // namespace
