// Vectors of 64-bit lanes and Philox4x32-10 on them, one block a lane. Included by each instruction set's file, which
// defines ZO_LANES; no include guard on purpose.

typedef uint64_t Lanes __attribute__((vector_size(ZO_LANES * 8)));

// The product of the low halves of each lane; the high halves may hold anything.
static inline __attribute__((always_inline)) Lanes multiply_low_halves(Lanes a, uint32_t factor) {
#if ZO_LANES == 8 && defined(__x86_64__)
  return (Lanes)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(static_cast<long long>(factor)));
#elif ZO_LANES == 4 && defined(__x86_64__)
  return (Lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(factor)));
#elif ZO_LANES == 2 && defined(__x86_64__)
  return (Lanes)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(static_cast<long long>(factor)));
#elif ZO_LANES == 2 && defined(__aarch64__)
  return (Lanes)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(factor));
#else
  return (a & 0xFFFFFFFFu) * factor;
#endif
}

// Writes `blocks` consecutive Philox blocks (a multiple of ZO_LANES), each as two 64-bit words, low word first: in
// memory the four 32-bit words of a block in order, on a little-endian machine. Salmon et al. 2011, section 4.2.
static inline void fill_blocks(uint64_t seed, uint32_t stream, uint64_t first_block, uint64_t blocks, uint64_t* out) {
  uint64_t low[kChunk / 8], high[kChunk / 8];
  for (uint64_t done = 0; done < blocks; done += ZO_LANES) {
    Lanes c0, c1, c2, c3;
    for (int lane = 0; lane < ZO_LANES; ++lane) c0[lane] = first_block + done + static_cast<uint64_t>(lane);
    c1 = c0 >> 32;
    c2 = Lanes{} + stream;
    c3 = Lanes{};
    uint32_t key_0 = static_cast<uint32_t>(seed), key_1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Lanes product_0 = multiply_low_halves(c0, 0xD2511F53u);
      const Lanes product_1 = multiply_low_halves(c2, 0xCD9E8D57u);
      c0 = (product_1 >> 32) ^ c1 ^ key_0;
      c1 = product_1;
      c2 = (product_0 >> 32) ^ c3 ^ key_1;
      c3 = product_0;
      key_0 += 0x9E3779B9u;
      key_1 += 0xBB67AE85u;
    }
    const Lanes words_01 = (c0 & 0xFFFFFFFFu) | (c1 << 32);
    const Lanes words_23 = (c2 & 0xFFFFFFFFu) | (c3 << 32);
    __builtin_memcpy(low + done, &words_01, sizeof words_01);
    __builtin_memcpy(high + done, &words_23, sizeof words_23);
  }
  for (uint64_t block = 0; block < blocks; ++block) {
    out[2 * block] = low[block];
    out[2 * block + 1] = high[block];
  }
}
