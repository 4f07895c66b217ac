// Encodes integers and guides; device_runtime/zo/code.py and guide_code.py describe the format and every choice.
#include <string.h>

#include "zo_code.h"
#include "zo_code_stream.h"

namespace cooperllm {
namespace {

constexpr uint32_t kCostOfAlphas = 32 * kGroups * kAlphaBits;
constexpr double kDeadZone = 0.65;
constexpr double kParts = 128.0;
constexpr int kCells = 3;
constexpr double kLargestWhole = 2147483647.0;
constexpr double kLargestFloat = 3.4028234663852886e38;

void write_u32(uint32_t value, uint8_t* bytes) {
  for (int byte = 0; byte < 4; ++byte) bytes[byte] = static_cast<uint8_t>(value >> (8 * byte));
}

// A chunk's tree: node 1 is the root, node i has the halves 2 i and 2 i + 1, entries are nodes width .. 2 width - 1.
struct Tree {
  uint64_t sums[2 * kCodeChunk];
  uint64_t width;
  uint64_t count;

  void fill(const int32_t* values, uint64_t entries) {
    count = entries;
    width = uint64_t{1} << levels_of(entries);
    for (uint64_t i = 0; i < width; ++i) {
      const int64_t value = i < count ? values[i] : 0;
      sums[width + i] = static_cast<uint64_t>(value < 0 ? -value : value);
    }
    for (uint64_t node = width - 1; node > 0; --node) sums[node] = sums[2 * node] + sums[2 * node + 1];
  }
};

struct Split {
  uint32_t row;
  uint32_t symbol;
  uint64_t offset;
  uint64_t width;  // 1 where the symbol says all
};

// Calls visit(level, split) for the splits of a tree, in the order of the stream.
template <typename Visit>
void visit_splits(const Tree& tree, Visit visit) {
  int level = levels_of(tree.count);
  for (uint64_t first = 1; first < tree.width; first *= 2, --level) {
    const uint64_t size = tree.width / first;
    for (uint64_t node = first; node < 2 * first; ++node) {
      const uint64_t total = tree.sums[node], left = tree.sums[2 * node];
      if (total == 0 || (node - first) * size + size / 2 >= tree.count) continue;
      Split split = {static_cast<uint32_t>(total), static_cast<uint32_t>(left), 0, 1};
      if (total > kExact) {
        const uint64_t symbol = 16 * left / (total + 1), low = lowest_of(symbol, total);
        split = {kExact, static_cast<uint32_t>(symbol), left - low, lowest_of(symbol + 1, total) - low};
      }
      visit(level, split);
    }
  }
}

// Symbols gather in `scratch`; raw bits grow downwards from the end of `bytes`, and in the end the words before them.
class IntegerEncoder {
 public:
  IntegerEncoder(uint32_t* scratch, uint8_t* end) : symbols_(scratch), front_(end) {
    memcpy(alphas_, kAlphasAtStart, sizeof alphas_);
  }

  void chunk(const int32_t* values, uint64_t count) {
    tree_.fill(values, count);
    const uint64_t root = tree_.sums[1];
    const int length = bit_length(root);
    raw(static_cast<uint64_t>(length), kLengthBits);
    if (root == 0) return;
    raw(root - (uint64_t{1} << (length - 1)), length - 1);
    choose_alphas();
    visit_splits(tree_, [this](int level, const Split& split) {
      const int alpha = alphas_[group_of(level)];
      const Symbol symbol = kCodeTables.symbols[alpha][split.row][split.symbol];
      symbols_[symbol_count_++] = static_cast<uint32_t>(symbol.start) << 16 | symbol.frequency;
      phased(split.offset, split.width);
    });
    for (uint64_t i = 0; i < count; ++i)
      if (values[i] != 0) raw(values[i] < 0 ? 1 : 0, 1);
  }

  // Puts words and states before the raw bits; answers where the stream begins.
  uint8_t* finish() {
    if (held_bits_ > 0) *--front_ = static_cast<uint8_t>(held_);
    uint32_t states[2] = {kLowest, kLowest};
    for (uint64_t symbol = symbol_count_; symbol-- > 0;) {
      const uint32_t start = symbols_[symbol] >> 16, frequency = symbols_[symbol] & 0xFFFF;
      uint32_t& state = states[symbol % 2];
      if (state >= static_cast<uint64_t>(frequency) << 20) {
        *--front_ = static_cast<uint8_t>(state >> 8);
        *--front_ = static_cast<uint8_t>(state);
        state >>= 16;
      }
      state = (state / frequency << 12) + state % frequency + start;
    }
    front_ -= kStatesBytes;
    write_u32(states[0], front_);
    write_u32(states[1], front_ + 4);
    return front_;
  }

 private:
  void raw(uint64_t value, int bits) {
    held_ |= value << held_bits_;
    held_bits_ += bits;
    for (; held_bits_ >= 8; held_bits_ -= 8, held_ >>= 8) *--front_ = static_cast<uint8_t>(held_);
  }

  void phased(uint64_t offset, uint64_t width) {
    if (width == 1) return;
    const int bits = bit_length(width) - 1;
    const uint64_t short_codes = (uint64_t{2} << bits) - width;
    if (offset < short_codes) return raw(offset, bits);
    raw((offset + short_codes) >> 1, bits);
    raw((offset + short_codes) & 1, 1);
  }

  // The cheapest alphas; those of before where new ones would not earn their own bits. Written, as the stream says.
  void choose_alphas() {
    uint32_t counts[kGroups][kRows][kRows] = {};
    visit_splits(tree_,
                 [&counts](int level, const Split& split) { ++counts[group_of(level)][split.row][split.symbol]; });
    uint64_t kept = 0, anew = kCostOfAlphas;
    uint8_t cheapest[kGroups];
    for (int group = 0; group < kGroups; ++group) {
      uint64_t costs[kAlphas] = {};
      for (int alpha = 0; alpha < kAlphas; ++alpha)
        for (int row = 1; row < kRows; ++row)
          for (int symbol = 0; symbol <= row; ++symbol)
            costs[alpha] += uint64_t{counts[group][row][symbol]} * kCodeTables.costs[alpha][row][symbol];
      cheapest[group] = 0;
      for (uint8_t alpha = 1; alpha < kAlphas; ++alpha)
        if (costs[alpha] < costs[cheapest[group]]) cheapest[group] = alpha;
      kept += costs[alphas_[group]];
      anew += costs[cheapest[group]];
    }
    raw(anew < kept ? 1 : 0, 1);
    if (anew >= kept) return;
    memcpy(alphas_, cheapest, sizeof alphas_);
    for (const uint8_t alpha : alphas_) raw(alpha, kAlphaBits);
  }

  uint32_t* symbols_;  // start and frequency
  uint64_t symbol_count_ = 0;
  uint8_t* front_;
  uint64_t held_ = 0;
  int held_bits_ = 0;
  uint8_t alphas_[kGroups];
  Tree tree_;
};

uint64_t encode_integers(const int32_t* values, uint64_t count, uint32_t* scratch, uint8_t* bytes) {
  if (count == 0) return 0;
  uint8_t* const end = bytes + zo_integers_bound_bytes(count);
  IntegerEncoder encoder(scratch, end);
  for (uint64_t done = 0; done < count; done += kCodeChunk)
    encoder.chunk(values + done, count - done < kCodeChunk ? count - done : kCodeChunk);
  const uint8_t* const front = encoder.finish();
  memmove(bytes, front, static_cast<uint64_t>(end - front));
  return static_cast<uint64_t>(end - front);
}

// Sums over the cells of magnitude 1, 2, and 3 or more: how many values, and where they lie in 1/128 steps.
struct Cells {
  int64_t parts[kCells + 1] = {0};
  int64_t counts[kCells + 1] = {0};

  int8_t mean(int cell) const {
    const int64_t count = counts[cell];
    if (count == 0) return 0;
    const int64_t above = 2 * parts[cell] + count, below = 2 * count;
    const int64_t floored = above / below - (above % below < 0 ? 1 : 0);
    return static_cast<int8_t>(floored < -128 ? -128 : floored > 127 ? 127 : floored);
  }
};

}  // namespace
}  // namespace cooperllm

using namespace cooperllm;

extern "C" {

// Each entry has at most a split of 12 bits and a sign, and together fewer than 31 bits below the splits' symbols.
uint64_t zo_integers_bound_bytes(uint64_t count) noexcept { return 64 + 6 * count + 16 * (count / kCodeChunk + 1); }

zo_status zo_encode_integers(const int32_t* values, uint64_t count, uint32_t* scratch, uint8_t* bytes,
                             uint64_t* size_bytes) noexcept {
  if (((values == nullptr || scratch == nullptr) && count > 0) || bytes == nullptr || size_bytes == nullptr)
    return ZO_BAD_ARGUMENT;
  *size_bytes = encode_integers(values, count, scratch, bytes);
  return ZO_OK;
}

zo_status zo_encode_guide(const float* values, uint64_t count, double step, int32_t* whole, uint32_t* scratch,
                          uint8_t* bytes, uint64_t* size_bytes) noexcept {
  if (((values == nullptr || whole == nullptr || scratch == nullptr) && count > 0) || bytes == nullptr ||
      size_bytes == nullptr || count > UINT32_MAX)
    return ZO_BAD_ARGUMENT;
  const float narrow = static_cast<float>(step);
  if (!(narrow > 0.0f) || narrow > kLargestFloat) return ZO_OUT_OF_RANGE;
  step = narrow;
  Cells cells;
  bool is_finite = true, is_in_range = true;
  for (uint64_t i = 0; i < count; ++i) {
    const double exact = values[i], steps = __builtin_fabs(exact) / step;
    const double magnitude = __builtin_floor(steps + (1.0 - kDeadZone));
    is_finite &= __builtin_fabs(exact) <= kLargestFloat;
    if (!(magnitude <= kLargestWhole)) {
      is_in_range = false;
      continue;
    }
    const int64_t rounded = static_cast<int64_t>(magnitude);
    const int64_t cell = rounded < kCells ? rounded : kCells;
    whole[i] = static_cast<int32_t>(exact < 0.0 ? -rounded : rounded);
    if (cell == 0) continue;
    cells.parts[cell] += static_cast<int64_t>(__builtin_floor((steps - magnitude) * kParts + 0.5));
    cells.counts[cell] += 1;
  }
  if (!is_finite) return ZO_NOT_FINITE;
  if (!is_in_range) return ZO_OUT_OF_RANGE;
  bytes[0] = 1;
  for (int cell = 1; cell <= kCells; ++cell) bytes[cell] = static_cast<uint8_t>(cells.mean(cell));
  write_u32(static_cast<uint32_t>(count), bytes + 4);
  uint32_t step_bits;
  memcpy(&step_bits, &narrow, sizeof step_bits);
  write_u32(step_bits, bytes + 8);
  *size_bytes = ZO_GUIDE_HEADER_BYTES + encode_integers(whole, count, scratch, bytes + ZO_GUIDE_HEADER_BYTES);
  return ZO_OK;
}

}  // extern "C"
