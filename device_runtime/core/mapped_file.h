// A program's file, mapped once and read-only. Unlike ExecuTorch's own mapped loader it can give back the pages that
// were read: the table of embeddings is looked into at a few rows a batch, but the system maps whole neighbourhoods,
// and without this the table would end up resident as a whole.
#pragma once

#include <executorch/runtime/core/data_loader.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <system_error>

namespace cooperllm {

class MappedFile final : public executorch::runtime::DataLoader {
 public:
  MappedFile() = default;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() override {
    if (data_ != nullptr) munmap(data_, size_bytes_);
  }

  // Empty on success, otherwise what went wrong.
  std::string open(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return std::generic_category().message(errno);
    struct stat about{};
    std::string problem;
    if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
      problem = "it is not a regular file";
    } else if (about.st_size == 0) {
      problem = "it is empty";
    } else {
      void* mapped = mmap(nullptr, static_cast<size_t>(about.st_size), PROT_READ, MAP_PRIVATE, file, 0);
      if (mapped == MAP_FAILED) {
        problem = std::generic_category().message(errno);
      } else {
        data_ = static_cast<uint8_t*>(mapped);
        size_bytes_ = static_cast<size_t>(about.st_size);
      }
    }
    close(file);
    return problem;
  }

  // Lets go of every resident page; the next read gets it from the page cache or the disk.
  void release_pages() const noexcept { madvise(data_, size_bytes_, MADV_DONTNEED); }

  executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(size_t offset, size_t size,
                                                                        const SegmentInfo& info) const override {
    if (!contains(offset, size)) return executorch::runtime::Error::InvalidProgram;
    if (info.segment_type == SegmentInfo::Type::Constant) narrow_faults(offset, offset + size);
    return executorch::runtime::FreeableBuffer(data_ + offset, size, &MappedFile::release);
  }

  executorch::runtime::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (!contains(offset, size)) return executorch::runtime::Error::InvalidProgram;
    std::memcpy(buffer, data_ + offset, size);
    return executorch::runtime::Error::Ok;
  }

  executorch::runtime::Result<size_t> size() const override { return size_bytes_; }

 private:
  // A fault maps the pages around it too, 64 KB of them on Linux, but never past the end of its mapping: looking up 300
  // rows of a table, which is what a program keeps as constants, would make 19 MB resident. Stretches that differ in
  // their advice are mappings of their own. A process may have 65,530, so a large table has longer ones, or none.
  void narrow_faults(size_t from, size_t to) const noexcept {
    constexpr size_t kFault_bytes = 64 << 10, kShortest_bytes = 16 << 10, kMostMappings = 8192;
    size_t stretch_bytes = kShortest_bytes;
    while ((to - from) / stretch_bytes > kMostMappings) stretch_bytes *= 2;
    if (stretch_bytes >= kFault_bytes || stretch_bytes % static_cast<size_t>(sysconf(_SC_PAGESIZE)) != 0) return;
    const size_t first = (from + stretch_bytes - 1) / stretch_bytes * stretch_bytes;
    for (size_t start = first; start + stretch_bytes < to; start += 2 * stretch_bytes) {
      madvise(data_ + start, stretch_bytes, MADV_SEQUENTIAL);
    }
  }

  bool contains(size_t offset, size_t size) const { return offset <= size_bytes_ && size <= size_bytes_ - offset; }

  // A buffer is given back once its weights are packed: its pages go at once, so that loading never holds both forms of
  // more than one segment. Neighbours on the first and last page are read again.
  static void release(void*, void* data, size_t size) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t into_page = reinterpret_cast<uintptr_t>(data) % page;
    madvise(static_cast<uint8_t*>(data) - into_page, size + into_page, MADV_DONTNEED);
  }

  uint8_t* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace cooperllm
