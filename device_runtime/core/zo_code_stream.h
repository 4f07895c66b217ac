// What encoder and decoder of coded integers share: the numbers of the format, and the decoder, chunk by chunk.
#pragma once

#include <stdint.h>

#include "zo_code_tables.h"

namespace cooperllm {

constexpr uint64_t kCodeChunk = 4096;  // entries that share a tree
constexpr int kGroups = 6;             // sizes of node that have an alpha of their own
constexpr uint8_t kAlphasAtStart[kGroups] = {9, 12, 15, 15, 8, 7};
constexpr int kLengthBits = 6;
constexpr int kAlphaBits = 4;
constexpr uint64_t kExact = 15;  // sums up to here have a row of their own
constexpr uint32_t kLowest = 1u << 16;
constexpr uint64_t kLargestMagnitude = uint64_t{1} << 31;
constexpr uint64_t kStatesBytes = 8;

inline int group_of(int level) { return (level < kGroups ? level : kGroups) - 1; }

// The smallest left part of a sum above kExact that has this symbol.
inline uint64_t lowest_of(uint64_t symbol, uint64_t total) { return (symbol * (total + 1) + 15) / 16; }

// The levels above the entries themselves.
inline int levels_of(uint64_t count) { return count > 1 ? 64 - __builtin_clzll(count - 1) : 0; }

// A stream being read. It stays inside its bytes; what is missing reads as 0 and makes it damaged.
class IntegerDecoder {
 public:
  IntegerDecoder(const uint8_t* bytes, uint64_t size_bytes);

  // Decodes the next `count` integers: kCodeChunk of them, fewer in the last chunk alone. False when the stream is
  // damaged. Those that are not zero are then at place(0) ... place(found() - 1), ascending.
  bool next(uint64_t count);
  uint64_t found() const { return found_; }
  uint64_t place(uint64_t i) const { return nodes_[side_][i]; }
  int32_t value(uint64_t i) const { return static_cast<int32_t>(static_cast<uint32_t>(sums_[place(i)])); }

  // Whether the stream ended where the encoder began.
  bool is_complete() const;

 private:
  uint64_t raw(int bits);
  uint64_t phased(uint64_t width);
  uint64_t split(uint64_t total, const Symbol (*symbols)[kRows + 1], const uint8_t (*first)[kBuckets]);
  void split_level(uint64_t half, uint64_t count, int alpha);
  bool add_signs();

  const uint8_t* front_;
  const uint8_t* back_;   // raw bits that were not read end here
  const uint8_t* floor_;  // of the raw bits
  const uint8_t* end_;
  uint64_t held_ = 0;  // raw bits that were read and not used
  int held_bits_ = 0;
  uint32_t state_ = kLowest;  // of the next symbol's lane
  uint32_t other_state_ = kLowest;
  bool is_damaged_ = false;
  int side_ = 0;
  uint64_t found_ = 0;
  uint8_t alphas_[kGroups];
  uint64_t sums_[kCodeChunk];  // of the nodes that begin at an entry; meaningless where none does
  uint16_t nodes_[2][kCodeChunk];
};

}  // namespace cooperllm
