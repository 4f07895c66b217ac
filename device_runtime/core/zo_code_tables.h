// Frequencies of the coder's symbols, made by the compiler: the twin of device_runtime/zo/code_tables.py.
#pragma once

#include <stdint.h>

namespace cooperllm {

constexpr int kAlphas = 16;
constexpr int kRows = 16;  // sums 0 (unused) to 15
constexpr uint32_t kTotal = 4096;

constexpr int kBuckets = 256;  // of 16 slots

struct Symbol {
  uint16_t start = 0xFFFF;  // beyond a row's last symbol above every slot
  uint16_t frequency = 0;
};

struct CodeTables {
  Symbol symbols[kAlphas][kRows][kRows + 1] = {};
  uint8_t first[kAlphas][kRows][kBuckets] = {};  // the symbol of a bucket's first slot
  uint16_t costs[kAlphas][kRows][kRows] = {};    // in 1/32 bits
};

constexpr int bit_length(uint64_t value) { return value == 0 ? 0 : 64 - __builtin_clzll(value); }

// 32 log2(4096 / frequency), its logarithm rounded down.
constexpr uint16_t cost_of(uint32_t frequency) {
  const int whole = bit_length(frequency) - 1;
  uint64_t x = static_cast<uint64_t>(frequency) << (15 - whole), behind = 0;
  for (int bit = 0; bit < 5; ++bit) {
    x = (x * x) >> 15;
    behind = behind << 1 | x >> 16;
    x >>= x >> 16;
  }
  return static_cast<uint16_t>(32 * 12 - (32 * whole + static_cast<int>(behind)));
}

constexpr void fill_row(uint64_t draws, uint64_t alpha, uint16_t* frequencies) {
  uint64_t weights[kRows] = {uint64_t{1} << 30};
  for (uint64_t k = 0; k < draws / 2; ++k)
    weights[k + 1] = weights[k] * (draws - k) * (16 * k + alpha) / ((k + 1) * (16 * (draws - k - 1) + alpha));
  for (uint64_t k = draws / 2 + 1; k <= draws; ++k) weights[k] = weights[draws - k];
  uint64_t sum = 0, given = 0, largest = 0;
  for (uint64_t k = 0; k <= draws; ++k) sum += weights[k];
  for (uint64_t k = 0; k <= draws; ++k) {
    frequencies[k] = static_cast<uint16_t>(1 + weights[k] * (kTotal - (draws + 1)) / sum);
    given += frequencies[k];
    if (frequencies[k] > frequencies[largest]) largest = k;
  }
  frequencies[largest] = static_cast<uint16_t>(frequencies[largest] + kTotal - given);
}

constexpr CodeTables make_code_tables() {
  constexpr uint64_t alphas[kAlphas] = {2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024};
  CodeTables tables;
  for (int alpha = 0; alpha < kAlphas; ++alpha) {
    for (int row = 1; row < kRows; ++row) {
      uint16_t frequencies[kRows] = {};
      fill_row(static_cast<uint64_t>(row), alphas[alpha], frequencies);
      uint32_t start = 0;
      for (int symbol = 0; symbol <= row; ++symbol) {
        const uint32_t end = start + frequencies[symbol];
        tables.symbols[alpha][row][symbol].start = static_cast<uint16_t>(start);
        tables.symbols[alpha][row][symbol].frequency = frequencies[symbol];
        tables.costs[alpha][row][symbol] = cost_of(frequencies[symbol]);
        for (uint32_t bucket = (start + 15) / 16; 16 * bucket < end; ++bucket)
          tables.first[alpha][row][bucket] = static_cast<uint8_t>(symbol);
        start = end;
      }
    }
  }
  return tables;
}

// What a decoder needs at once lies together: 80 KB, of which a stream uses the rows of a few alphas.
alignas(64) inline constexpr CodeTables kCodeTables = make_code_tables();

}  // namespace cooperllm
