// Decodes streams of integers and guides; device_runtime/zo/code.py describes them.
#include <string.h>

#include "zo_code.h"
#include "zo_code_stream.h"

namespace cooperllm {
namespace {

constexpr float kLargestFloat = 3.4028234663852886e38f;

uint32_t read_u32(const uint8_t* bytes) {
  return bytes[0] | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16 |
         static_cast<uint32_t>(bytes[3]) << 24;
}

}  // namespace

IntegerDecoder::IntegerDecoder(const uint8_t* bytes, uint64_t size_bytes)
    : front_(bytes), back_(bytes + size_bytes), floor_(bytes), end_(bytes + size_bytes) {
  memcpy(alphas_, kAlphasAtStart, sizeof alphas_);
  if (size_bytes < kStatesBytes) {
    is_damaged_ = true;
    return;
  }
  state_ = read_u32(bytes);
  other_state_ = read_u32(bytes + 4);
  front_ = floor_ = bytes + kStatesBytes;
}

uint64_t IntegerDecoder::raw(int bits) {
  while (held_bits_ < bits) {
    if (held_bits_ <= 32 && back_ - floor_ >= 4) {
      back_ -= 4;
      const uint32_t word = static_cast<uint32_t>(back_[0]) << 24 | static_cast<uint32_t>(back_[1]) << 16 |
                            static_cast<uint32_t>(back_[2]) << 8 | back_[3];
      held_ |= static_cast<uint64_t>(word) << held_bits_;
      held_bits_ += 32;
    } else if (back_ > floor_) {
      held_ |= static_cast<uint64_t>(*--back_) << held_bits_;
      held_bits_ += 8;
    } else {
      is_damaged_ = true;
      return 0;
    }
  }
  const uint64_t value = held_ & ((uint64_t{1} << bits) - 1);
  held_ >>= bits;
  held_bits_ -= bits;
  return value;
}

uint64_t IntegerDecoder::phased(uint64_t width) {
  const int bits = 63 - __builtin_clzll(width);
  const uint64_t short_codes = (uint64_t{2} << bits) - width;
  const uint64_t value = raw(bits);
  return value < short_codes ? value : (value << 1 | raw(1)) - short_codes;
}

// The left part of a sum; the lanes take turns.
inline uint64_t IntegerDecoder::split(uint64_t total, const Symbol (*symbols)[kRows + 1],
                                      const uint8_t (*first)[kBuckets]) {
  const uint64_t row = total < kExact ? total : kExact;
  const uint32_t slot = state_ & (kTotal - 1);
  uint32_t symbol = first[row][slot / 16];
  while (symbols[row][symbol + 1].start <= slot) ++symbol;  // rarely: most buckets are of one symbol
  uint32_t state = symbols[row][symbol].frequency * (state_ >> 12) + slot - symbols[row][symbol].start;
  state_ = other_state_;
  const bool is_short = state < kLowest;
  if (end_ - front_ >= 2) {  // no branch on what cannot be predicted
    const uint32_t longer = state << 16 | front_[0] | static_cast<uint32_t>(front_[1]) << 8;
    state = is_short ? longer : state;
    front_ += is_short ? 2 : 0;
  } else if (is_short) {
    is_damaged_ = true;
  }
  other_state_ = state;
  if (total <= kExact) return symbol;
  const uint64_t low = lowest_of(symbol, total);
  return low + phased(lowest_of(symbol + 1, total) - low);
}

// Replaces the nodes by those of half the size whose sums are positive.
void IntegerDecoder::split_level(uint64_t half, uint64_t count, int alpha) {
  const uint16_t* const nodes = nodes_[side_];
  uint16_t* const halves = nodes_[1 - side_];
  uint64_t halves_found = 0;
  for (uint64_t node = 0; node < found_; ++node) {
    const uint64_t left_at = nodes[node], right_at = left_at + half;
    if (right_at >= count) {
      halves[halves_found++] = nodes[node];
      continue;
    }
    const uint64_t total = sums_[left_at];
    const uint64_t left = split(total, kCodeTables.symbols[alpha], kCodeTables.first[alpha]);
    sums_[left_at] = left;
    sums_[right_at] = total - left;
    // Written before it is known whether they are positive: no branch. There are at most `count` in all, and what
    // is none is written over.
    halves[halves_found] = static_cast<uint16_t>(left_at);
    halves_found += left > 0 ? 1 : 0;
    halves[halves_found] = static_cast<uint16_t>(right_at);
    halves_found += left < total ? 1 : 0;
  }
  found_ = halves_found;
  side_ = 1 - side_;
}

bool IntegerDecoder::add_signs() {
  bool is_in_range = true;
  for (uint64_t i = 0; i < found_; ++i) {
    const uint64_t magnitude = sums_[place(i)], negative = raw(1);
    is_in_range &= magnitude < kLargestMagnitude + negative;
    sums_[place(i)] = (magnitude ^ (0 - negative)) + negative;  // two's complement
  }
  return is_in_range;
}

bool IntegerDecoder::next(uint64_t count) {
  found_ = 0;
  const int length = static_cast<int>(raw(kLengthBits));
  // No sum is longer than 31 + 12 + 1 bits: what is checked here keeps raw() below its 57.
  if (is_damaged_ || length > 44) return false;
  if (length == 0) return true;
  const uint64_t root = uint64_t{1} << (length - 1) | raw(length - 1);
  if (is_damaged_ || root > count * kLargestMagnitude) return false;
  if (raw(1) != 0)
    for (uint8_t& alpha : alphas_) alpha = static_cast<uint8_t>(raw(kAlphaBits));
  found_ = 1;
  nodes_[side_][0] = 0;
  sums_[0] = root;
  for (int level = levels_of(count); level > 0 && !is_damaged_; --level)
    split_level(uint64_t{1} << (level - 1), count, alphas_[group_of(level)]);
  return !is_damaged_ && add_signs() && !is_damaged_;
}

bool IntegerDecoder::is_complete() const {
  if (is_damaged_ || state_ != kLowest || other_state_ != kLowest) return false;
  const uint64_t used_bits = 8 * static_cast<uint64_t>(end_ - back_) - static_cast<uint64_t>(held_bits_);
  const uint64_t used_bytes = (used_bits + 7) / 8, padding = 8 * used_bytes - used_bits;
  return static_cast<uint64_t>(end_ - front_) == used_bytes && (held_ & ((uint64_t{1} << padding) - 1)) == 0;
}

namespace {

// Calls write(place, value) for every integer that is not zero. False when the stream is damaged.
template <typename Write>
bool decode(const uint8_t* bytes, uint64_t size_bytes, uint64_t count, Write write) {
  if (count == 0 && size_bytes == 0) return true;
  IntegerDecoder decoder(bytes, size_bytes);
  for (uint64_t done = 0; done < count; done += kCodeChunk) {
    if (!decoder.next(count - done < kCodeChunk ? count - done : kCodeChunk)) return false;
    for (uint64_t i = 0; i < decoder.found(); ++i) write(done + decoder.place(i), decoder.value(i));
  }
  return decoder.is_complete();
}

}  // namespace
}  // namespace cooperllm

using namespace cooperllm;

extern "C" {

zo_status zo_decode_integers(const uint8_t* bytes, uint64_t size_bytes, uint64_t count, int32_t* values) noexcept {
  if ((bytes == nullptr && size_bytes > 0) || (values == nullptr && count > 0)) return ZO_BAD_ARGUMENT;
  if (count > 0) memset(values, 0, count * sizeof *values);
  const auto write = [values](uint64_t place, int32_t value) { values[place] = value; };
  return decode(bytes, size_bytes, count, write) ? ZO_OK : ZO_DAMAGED;
}

zo_status zo_decode_guide(const uint8_t* bytes, uint64_t size_bytes, uint64_t count, float* values) noexcept {
  if ((bytes == nullptr && size_bytes > 0) || (values == nullptr && count > 0)) return ZO_BAD_ARGUMENT;
  if (size_bytes < ZO_GUIDE_HEADER_BYTES || bytes[0] != 1 || read_u32(bytes + 4) != count) return ZO_DAMAGED;
  const uint32_t step_bits = read_u32(bytes + 8);
  float step;
  memcpy(&step, &step_bits, sizeof step);
  if (!(step > 0.0f) || step > kLargestFloat) return ZO_DAMAGED;
  const double unit = static_cast<double>(step) / 128.0;
  int8_t cells[4] = {0};
  memcpy(cells + 1, bytes + 1, 3);
  bool is_finite = true;
  if (count > 0) memset(values, 0, count * sizeof *values);
  const auto write = [&](uint64_t place, int32_t whole) {
    const int64_t magnitude = whole < 0 ? -static_cast<int64_t>(whole) : whole;
    const int64_t parts = 128 * magnitude + cells[magnitude < 3 ? magnitude : 3];
    const float value = static_cast<float>(static_cast<double>(parts) * unit);
    is_finite &= value <= kLargestFloat;
    values[place] = whole < 0 ? -value : value;
  };
  const bool is_whole = decode(bytes + ZO_GUIDE_HEADER_BYTES, size_bytes - ZO_GUIDE_HEADER_BYTES, count, write);
  return is_whole && is_finite ? ZO_OK : ZO_DAMAGED;
}

}  // extern "C"
