// Vectors of 64-bit lanes and Philox4x32-10 on them, one block a lane. Included by each instruction set's file, which
// defines ZO_LANES and ZO_TOGETHER; no include guard on purpose.

typedef uint64_t Lanes __attribute__((vector_size(ZO_LANES * 8)));

#if ZO_LANES == 8
static const Lanes kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7};
#elif ZO_LANES == 4
static const Lanes kLaneNumbers = {0, 1, 2, 3};
#else
static const Lanes kLaneNumbers = {0, 1};
#endif

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

static inline Lanes exchange_halves(Lanes a) { return (a >> 32) | (a << 32); }

// Writes two vectors of words so that the lanes of both alternate: low[0], high[0], low[1] ...
static inline __attribute__((always_inline)) void store_alternating(Lanes low, Lanes high, uint64_t* out) {
#if ZO_LANES == 8 && defined(__x86_64__)
  const __m512i firsts = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0),
                lasts = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi64((__m512i)low, firsts, (__m512i)high));
  _mm512_storeu_si512(out + 8, _mm512_permutex2var_epi64((__m512i)low, lasts, (__m512i)high));
#elif ZO_LANES == 4 && defined(__x86_64__)
  const __m256i even = _mm256_unpacklo_epi64((__m256i)low, (__m256i)high);
  const __m256i odd = _mm256_unpackhi_epi64((__m256i)low, (__m256i)high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 4), _mm256_permute2x128_si256(even, odd, 0x31));
#else
  for (uint64_t lane = 0; lane < ZO_LANES; ++lane) {
    out[2 * lane] = low[lane];
    out[2 * lane + 1] = high[lane];
  }
#endif
}

// What consecutive blocks of one stream have in common. Only the counter's low word differs between them, so half of
// Philox's first two rounds is the same for all and done once.
struct Stream {
  uint32_t key_0, key_1;
  uint64_t first;             // the first block's low counter word
  uint32_t same_c1, same_c2;  // what the second round xors its products with
  uint32_t same_c3;           // a word of the second round's result
};

constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

static inline Stream stream_of(uint64_t seed, uint32_t stream, uint64_t first_block) {
  const uint32_t key_0 = static_cast<uint32_t>(seed), key_1 = static_cast<uint32_t>(seed >> 32);
  const uint64_t first_product = uint64_t{kFactor1} * stream;
  const uint32_t c0 = static_cast<uint32_t>((first_product >> 32) ^ (first_block >> 32)) ^ key_0;
  const uint64_t second_product = uint64_t{kFactor0} * c0;
  return {key_0,
          key_1,
          first_block & 0xFFFFFFFFu,
          static_cast<uint32_t>(first_product) ^ (key_0 + kWeyl0),
          static_cast<uint32_t>(second_product >> 32) ^ (key_1 + kWeyl1),
          static_cast<uint32_t>(second_product)};
}

// Blocks done .. done + kVectors * ZO_LANES - 1 of a stream. Several vectors take turns: each alone would wait for its
// own multiplications.
template <uint64_t kVectors>
static inline __attribute__((always_inline)) void fill_vectors(const Stream& stream, uint64_t done, uint64_t* out) {
  Lanes c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (uint64_t v = 0; v < kVectors; ++v) {
    const Lanes first_0 = multiply_low_halves(kLaneNumbers + (stream.first + done + v * ZO_LANES), kFactor0);
    c1[v] = multiply_low_halves((first_0 >> 32) ^ stream.key_1, kFactor1);
    c0[v] = (c1[v] >> 32) ^ stream.same_c1;
    c2[v] = first_0 ^ stream.same_c2;
    c3[v] = Lanes{} + stream.same_c3;
  }
  uint32_t key_0 = stream.key_0 + kWeyl0, key_1 = stream.key_1 + kWeyl1;
#pragma GCC unroll 8
  for (int round = 2; round < 9; ++round) {
    key_0 += kWeyl0;
    key_1 += kWeyl1;
#pragma GCC unroll 4
    for (uint64_t v = 0; v < kVectors; ++v) {
      const Lanes product_0 = multiply_low_halves(c0[v], kFactor0), product_1 = multiply_low_halves(c2[v], kFactor1);
      c0[v] = (product_1 >> 32) ^ c1[v] ^ key_0;
      c1[v] = product_1;
      c2[v] = (product_0 >> 32) ^ c3[v] ^ key_1;
      c3[v] = product_0;
    }
  }
  // The last round, straight to pairs of words: a product with its halves exchanged is both words but for the xor.
  for (uint64_t v = 0; v < kVectors; ++v) {
    const Lanes product_0 = multiply_low_halves(c0[v], kFactor0), product_1 = multiply_low_halves(c2[v], kFactor1);
    store_alternating(exchange_halves(product_1) ^ ((c1[v] & 0xFFFFFFFFu) ^ (key_0 + kWeyl0)),
                      exchange_halves(product_0) ^ ((c3[v] & 0xFFFFFFFFu) ^ (key_1 + kWeyl1)), out + 2 * v * ZO_LANES);
  }
}

// Writes kBlocks consecutive Philox4x32-10 blocks, none of them a multiple of 2^32 but the first, each as two 64-bit
// words, low word first: in memory the four 32-bit words of a block in order, on a little-endian machine. Salmon et
// al. 2011, section 4.2.
template <uint64_t kBlocks>
static inline __attribute__((always_inline)) void fill_blocks(uint64_t seed, uint32_t stream, uint64_t first_block,
                                                              uint64_t* out) {
  constexpr uint64_t kVectors = kBlocks >= uint64_t{ZO_TOGETHER} * ZO_LANES ? ZO_TOGETHER : 1;
  const Stream common = stream_of(seed, stream, first_block);
  for (uint64_t done = 0; done < kBlocks; done += kVectors * ZO_LANES)
    fill_vectors<kVectors>(common, done, out + 2 * done);
}
