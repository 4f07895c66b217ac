package org.cooperllm.runtime.zo

/**
 * Counter-based random bits: Philox4x32-10.
 *
 * J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * Any slice of a stream can be made alone, in any order, on any machine, with the same bits.
 *
 * key = the 64-bit seed, low word first; counter = (block mod 2^32, block div 2^32, stream, 0).
 */
internal object Philox {
    /** One sign bit a parameter: see [NoiseSigns]. */
    const val NOISE_STREAM: Int = 0

    /** Sixteen bits a parameter, which round an update. */
    const val UPDATE_STREAM: Int = 1

    private const val ROUNDS = 10
    private const val MULTIPLIER_0 = 0xD2511F53L
    private const val MULTIPLIER_1 = 0xCD9E8D57L
    private const val WEYL_0 = 0x9E3779B9.toInt()
    private const val WEYL_1 = 0xBB67AE85.toInt()
    private const val LOW_32 = 0xFFFFFFFFL

    /** Writes the four words of one block of a stream to [out] at [at] .. [at] + 3. Allocates nothing. */
    fun block(
        seed: Long,
        stream: Int,
        block: Long,
        out: IntArray,
        at: Int,
    ) = bijection(block.toInt(), (block ushr 32).toInt(), stream, 0, seed, out, at)

    /** Writes Philox4x32-10 of the counter ([counter0] .. [counter3]) under the key [seed] to [out] at [at]. */
    fun bijection(
        counter0: Int,
        counter1: Int,
        counter2: Int,
        counter3: Int,
        seed: Long,
        out: IntArray,
        at: Int,
    ) {
        var c0 = counter0
        var c1 = counter1
        var c2 = counter2
        var c3 = counter3
        var key0 = seed.toInt()
        var key1 = (seed ushr 32).toInt()
        for (round in 0 until ROUNDS) {
            val product0 = MULTIPLIER_0 * (c0.toLong() and LOW_32)
            val product1 = MULTIPLIER_1 * (c2.toLong() and LOW_32)
            c0 = (product1 ushr 32).toInt() xor c1 xor key0
            c1 = product1.toInt()
            c2 = (product0 ushr 32).toInt() xor c3 xor key1
            c3 = product0.toInt()
            key0 += WEYL_0
            key1 += WEYL_1
        }
        out[at] = c0
        out[at + 1] = c1
        out[at + 2] = c2
        out[at + 3] = c3
    }
}
