package org.cooperllm.runtime.zo

/**
 * Random bits of parameters, as the kernels take them. Owns the scratch memory; one thread at a time.
 *
 * A slice may begin at any parameter and is the same bits whichever way an adapter is cut. Indices are unsigned.
 */
internal class Noise(
    mostParameters: Int,
) {
    private val words = IntArray(WORDS_PER_BLOCK * (mostParameters / HALF_WORDS_PER_BLOCK + 2))

    /**
     * Writes the noise v of parameters [start] .. [start] + [count] - 1 to [out]: each -1.0 or +1.0.
     *
     * Parameter i is bit i mod 128 of block i div 128 of the noise stream (bit b of a block is bit b mod 32 of its
     * word b div 32); a set bit is +1.
     */
    fun fillSigns(
        seed: Long,
        start: Long,
        count: Int,
        out: FloatArray,
    ) {
        var bit = fillBlocks(seed, Philox.NOISE_STREAM, start, count, SIGNS_PER_BLOCK)
        var done = 0
        while (done < count) {
            // The rest of a byte at a time: eight signs are one copy.
            val byte = words[bit ushr 5] ushr (bit and 24) and 0xFF
            val first = bit and 7
            val size = minOf(8 - first, count - done)
            System.arraycopy(SIGNS_OF_BYTE, 8 * byte + first, out, done, size)
            done += size
            bit += size
        }
    }

    /**
     * Writes the 16 random bits that round the update of parameters [start] .. [start] + [count] - 1 to [out].
     *
     * Parameter i is half-word i mod 8 of block i div 8 of the update stream; half-word h is in word h div 2, the low
     * half first.
     */
    fun fillHalfWords(
        seed: Long,
        start: Long,
        count: Int,
        out: IntArray,
    ) {
        val first = fillBlocks(seed, Philox.UPDATE_STREAM, start, count, HALF_WORDS_PER_BLOCK)
        for (i in 0 until count) {
            val half = first + i
            out[i] = words[half ushr 1] ushr (half and 1 shl 4) and 0xFFFF
        }
    }

    /** Makes the blocks that hold a slice and returns the place of its first parameter in the first block. */
    private fun fillBlocks(
        seed: Long,
        stream: Int,
        start: Long,
        count: Int,
        parametersPerBlock: Int,
    ): Int {
        val skipped = (start and (parametersPerBlock - 1).toLong()).toInt()
        val firstBlock = start ushr Integer.numberOfTrailingZeros(parametersPerBlock)
        val blocks = (skipped + count + parametersPerBlock - 1) / parametersPerBlock
        for (block in 0 until blocks) {
            Philox.block(seed, stream, firstBlock + block, words, WORDS_PER_BLOCK * block)
        }
        return skipped
    }

    companion object {
        const val SIGNS_PER_BLOCK: Int = 128
        const val HALF_WORDS_PER_BLOCK: Int = 8
        private const val WORDS_PER_BLOCK = 4

        /** The signs of each byte's eight bits, the lowest bit first. */
        private val SIGNS_OF_BYTE = FloatArray(8 * 256) { if (it / 8 shr it % 8 and 1 == 1) 1.0f else -1.0f }
    }
}
