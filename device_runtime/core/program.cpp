#include "program.h"

#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/executor/program.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdio>
#include <cstring>
#include <vector>

#include "buffer.h"
#include "mapped_file.h"
#include "program_log.h"
#include "thread_count.h"

namespace cooperllm {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::TensorImpl;

Kind kind_of(ScalarType type) {
  if (type == ScalarType::Float) return Kind::kFloat32;
  return type == ScalarType::Long ? Kind::kInt64 : Kind::kOther;
}

// Gives the tensor's shape; false where it is none that this project's programs have.
template <typename Sizes>
bool describe(const Sizes& sizes, ScalarType type, Tensor* out) {
  if (sizes.size() > kMaxRank) return false;
  out->kind = kind_of(type);
  out->rank = static_cast<int>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) out->sizes[i] = sizes[i];
  return true;
}

class ExecuTorchProgram final : public Program {
 public:
  ~ExecuTorchProgram() override {
    methods_.clear();
    ThreadCount::release();
  }

  MappedFile& file() { return file_; }

  zo_status load() {
    auto program = et::Program::load(&file_, et::Program::Verification::InternalConsistency);
    if (!program.ok()) return failed(program.error());
    program_ = std::make_unique<et::Program>(std::move(program.get()));
    return reserve_arenas();
  }

  bool has_method(const char* name) const noexcept override { return program_->method_meta(name).ok(); }

  zo_status find_method(const char* name, int* method) override {
    last_log[0] = '\0';
    auto meta = program_->method_meta(name);
    if (!meta.ok()) {
      std::snprintf(last_log, sizeof(last_log), "the program has no method '%s'", name);
      return ZO_PROGRAM_MISMATCH;
    }
    for (size_t i = 0; i < meta->num_backends(); ++i) {
      auto backend = meta->get_backend_name(i);
      if (!backend.ok()) return failed(backend.error());
      if (et::get_backend_class(*backend) != nullptr) continue;
      std::snprintf(last_log, sizeof(last_log), "it was made for the delegate %s, which is not here", *backend);
      return ZO_PROGRAM_MISMATCH;
    }
    methods_.push_back({name, *meta, nullptr});
    *method = static_cast<int>(methods_.size()) - 1;
    return ZO_OK;
  }

  zo_status load_method(int method) override {
    last_log[0] = '\0';
    Named& named = at(method);
    if (named.loaded != nullptr) return ZO_OK;
    auto loaded = std::make_unique<Loaded>(spans_of(named.meta));
    auto result = program_->load_method(named.name.c_str(), &loaded->manager);
    if (!result.ok()) return failed(result.error());
    loaded->method = std::make_unique<et::Method>(std::move(result.get()));
    named.loaded = std::move(loaded);
    return ZO_OK;
  }

  bool is_loaded(int method) const noexcept override { return at(method).loaded != nullptr; }

  void unload_methods(const std::vector<int>& methods) noexcept override {
    for (const int method : methods) at(method).loaded.reset();
#ifdef __GLIBC__
    malloc_trim(0);  // packed weights below malloc's threshold for mmap would stay in its free lists
#endif
  }

  size_t input_count(int method) const noexcept override { return at(method).meta.num_inputs(); }
  size_t output_count(int method) const noexcept override { return at(method).meta.num_outputs(); }

  zo_status input_meta(int method, size_t index, Tensor* meta) const noexcept override {
    auto info = at(method).meta.input_tensor_meta(index);
    if (!info.ok()) return failed(info.error());
    return describe(info->sizes(), info->scalar_type(), meta) ? ZO_OK : ZO_PROGRAM_MISMATCH;
  }

  zo_status output_meta(int method, size_t index, Tensor* meta) const noexcept override {
    auto info = at(method).meta.output_tensor_meta(index);
    if (!info.ok()) return failed(info.error());
    return describe(info->sizes(), info->scalar_type(), meta) ? ZO_OK : ZO_PROGRAM_MISMATCH;
  }

  zo_status run(int method, const Tensor* inputs, size_t input_count, Tensor* outputs,
                size_t output_count) noexcept override {
    last_log[0] = '\0';
    if (!is_loaded(method)) return ZO_PROGRAM_FAILED;
    et::Method& callee = *at(method).loaded->method;
    if (input_count != callee.inputs_size() || output_count != callee.outputs_size()) return ZO_PROGRAM_MISMATCH;
    for (size_t i = 0; i < input_count; ++i) {
      const zo_status status = bind(callee, inputs[i], i);
      if (status != ZO_OK) return status;
    }
    if (poison_) {  // 0xFF is a NaN in float32 and -1 in int64
      for (Buffer& arena : arenas_) std::memset(arena.data(), 0xFF, arena.size_bytes());
    }
    const et::Error error = callee.execute();
    if (error != et::Error::Ok) return failed(error);
    for (size_t i = 0; i < output_count; ++i) {
      const et::EValue& value = callee.get_output(i);
      if (!value.isTensor()) return ZO_PROGRAM_MISMATCH;
      const auto& tensor = value.toTensor();
      if (!describe(tensor.sizes(), tensor.scalar_type(), &outputs[i])) return ZO_PROGRAM_MISMATCH;
      outputs[i].data = tensor.mutable_data_ptr();
    }
    return ZO_OK;
  }

  size_t planned_bytes() const noexcept override {
    size_t sum = 0;
    for (const Buffer& arena : arenas_) sum += arena.size_bytes();
    return sum;
  }

  void poison_arena(bool before_every_run) noexcept override { poison_ = before_every_run; }

  void release_pages() noexcept override { file_.release_pages(); }

  const char* last_message() const noexcept override { return last_log; }

 private:
  // What a method needs to stay where it is while it lives, in order of construction.
  struct Loaded {
    explicit Loaded(std::vector<et::Span<uint8_t>>&& arena_spans)
        : spans(std::move(arena_spans)),
          planned(et::Span<et::Span<uint8_t>>(spans.data(), spans.size())),
          manager(&allocator, &planned, &scratch) {}

    std::vector<et::Span<uint8_t>> spans;
    executorch::extension::MallocMemoryAllocator allocator;  // the method's own structures, at load
    executorch::extension::MallocMemoryAllocator scratch;    // for kernels outside the delegate
    et::HierarchicalAllocator planned;
    et::MemoryManager manager;
    std::unique_ptr<et::Method> method;
  };

  // A method's description, which lies in the file, and what there is of it while it is loaded.
  struct Named {
    std::string name;
    et::MethodMeta meta;
    std::unique_ptr<Loaded> loaded;
  };

  Named& at(int method) noexcept { return methods_[static_cast<size_t>(method)]; }
  const Named& at(int method) const noexcept { return methods_[static_cast<size_t>(method)]; }

  // One arena per memory id, as large as the most demanding method wants it; all methods share them.
  zo_status reserve_arenas() {
    std::vector<size_t> sizes_bytes;
    for (size_t i = 0; i < program_->num_methods(); ++i) {
      auto name = program_->get_method_name(i);
      if (!name.ok()) return failed(name.error());
      auto meta = program_->method_meta(*name);
      if (!meta.ok()) return failed(meta.error());
      const size_t count = meta->num_memory_planned_buffers();
      if (count > sizes_bytes.size()) sizes_bytes.resize(count, 0);
      for (size_t id = 0; id < count; ++id) {
        auto size_bytes = meta->memory_planned_buffer_size(id);
        if (!size_bytes.ok()) return failed(size_bytes.error());
        if (*size_bytes > 0 && static_cast<size_t>(*size_bytes) > sizes_bytes[id]) {
          sizes_bytes[id] = static_cast<size_t>(*size_bytes);
        }
      }
    }
    for (const size_t size_bytes : sizes_bytes) arenas_.emplace_back(size_bytes);
    return ZO_OK;
  }

  std::vector<et::Span<uint8_t>> spans_of(const et::MethodMeta& meta) const {
    std::vector<et::Span<uint8_t>> spans;
    spans.reserve(meta.num_memory_planned_buffers());
    for (size_t id = 0; id < meta.num_memory_planned_buffers(); ++id) {
      spans.emplace_back(arenas_[id].as<uint8_t>(), arenas_[id].size_bytes());
    }
    return spans;
  }

  // set_input resizes the method's own tensor to our shape and, as inputs are not planned, points it at our memory.
  static zo_status bind(et::Method& callee, const Tensor& input, size_t index) noexcept {
    int32_t sizes[kMaxRank];
    int32_t strides[kMaxRank];
    uint8_t order[kMaxRank];
    int32_t stride = 1;
    for (int i = input.rank - 1; i >= 0; --i) {
      sizes[i] = input.sizes[i];
      strides[i] = stride;
      order[i] = static_cast<uint8_t>(i);
      stride *= input.sizes[i];
    }
    const ScalarType type = input.kind == Kind::kInt64 ? ScalarType::Long : ScalarType::Float;
    TensorImpl tensor(type, input.rank, sizes, input.data, order, strides);
    const et::Error error = callee.set_input(et::EValue(executorch::aten::Tensor(&tensor)), index);
    return error == et::Error::Ok ? ZO_OK : (failed(error), ZO_PROGRAM_MISMATCH);
  }

  // Members are destroyed from the last to the first: methods, arenas, program, file.
  MappedFile file_;
  std::unique_ptr<et::Program> program_;
  std::vector<Buffer> arenas_;
  std::vector<Named> methods_;
  bool poison_ = false;
};

}  // namespace

std::unique_ptr<Program> open_program(const std::string& path, unsigned threads, zo_status* status,
                                      std::string* message) {
  start_runtime();
  last_log[0] = '\0';
  if (!ThreadCount::acquire(threads)) {
    *status = ZO_BAD_ARGUMENT;
    *message = "threads is 0, or another program of this process runs with a different number of threads";
    return nullptr;
  }
  auto program = std::make_unique<ExecuTorchProgram>();
  const std::string problem = program->file().open(path);
  if (!problem.empty()) {
    *status = ZO_PROGRAM_FAILED;
    *message = "cannot map '" + path + "': " + problem;
    return nullptr;
  }
  *status = program->load();
  if (*status == ZO_OK) return program;
  *message = "'" + path + "' is not a program that can be loaded: " + last_log;
  return nullptr;
}

}  // namespace cooperllm
