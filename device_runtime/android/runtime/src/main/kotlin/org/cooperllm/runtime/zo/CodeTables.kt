package org.cooperllm.runtime.zo

/**
 * The symbols that [IntegerDecoder] knows, by alpha's number and row: what lies left of a node whose sum is the row.
 *
 * Row e (1 to 15) of alpha a is the beta-binomial distribution of e draws, in parts of 4,096, by integers alone:
 *
 *     P(k + 1) / P(k) = (e - k) (k + alpha) / ((k + 1) (e - k - 1 + alpha)),    alpha = ALPHAS[a] / 16
 *
 * from w(0) = 2^30, rounding down, up to the middle; the other half mirrors it. Then frequency(k) =
 * 1 + floor(w(k) (4096 - (e + 1)) / sum of w); what 4,096 still lacks goes to the first of the largest.
 *
 * A symbol with its place among the 4,096 slots is one number, so that a look-up is one read: see [startOf],
 * [frequencyOf] and [symbolOf].
 */
internal object CodeTables {
    /** Sums up to here have a row of their own. */
    const val EXACT: Int = 15
    const val TOTAL_BITS: Int = 12
    private const val TOTAL = 1 shl TOTAL_BITS

    /** Slots that share an entry of [buckets]. */
    const val BUCKET_BITS: Int = 4

    /** Entries of [buckets] that a row has. */
    const val ROW_BITS: Int = TOTAL_BITS - BUCKET_BITS

    /** Entries of [buckets] that an alpha has: 16 rows. */
    const val ALPHA_BITS: Int = ROW_BITS + 4
    private const val FIRST_WEIGHT = 1L shl 30
    private const val FREQUENCY_BITS = TOTAL_BITS + 1
    private const val SYMBOL_BITS = 4

    /** In sixteenths. */
    private val ALPHAS = intArrayOf(2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)

    /** The symbol of a bucket's first slot. */
    val buckets: IntArray = IntArray(ALPHAS.size shl ALPHA_BITS)
    private val symbols = IntArray(ALPHAS.size shl 2 * SYMBOL_BITS)

    init {
        for (alpha in ALPHAS.indices) for (row in 1..EXACT) fill(alpha, row, frequencies(row, ALPHAS[alpha]))
    }

    /** The first slot of a symbol. */
    fun startOf(packed: Int): Int = packed and TOTAL - 1

    /** How many slots it has. */
    fun frequencyOf(packed: Int): Int = packed shr TOTAL_BITS and (1 shl FREQUENCY_BITS) - 1

    /** What it says. */
    fun symbolOf(packed: Int): Int = packed shr TOTAL_BITS + FREQUENCY_BITS

    /** The symbol of a slot, from that of its bucket's first slot on: only where another begins inside the bucket. */
    fun symbolAt(
        slot: Int,
        bucket: Int,
        alpha: Int,
        row: Int,
    ): Int {
        val at = (alpha shl SYMBOL_BITS or row) shl SYMBOL_BITS
        var packed = bucket
        while (slot >= startOf(packed) + frequencyOf(packed)) packed = symbols[at + symbolOf(packed) + 1]
        return packed
    }

    private fun fill(
        alpha: Int,
        row: Int,
        frequencies: IntArray,
    ) {
        val symbolsAt = (alpha shl SYMBOL_BITS or row) shl SYMBOL_BITS
        var start = 0
        for ((symbol, frequency) in frequencies.withIndex()) {
            symbols[symbolsAt + symbol] = (symbol shl FREQUENCY_BITS or frequency) shl TOTAL_BITS or start
            start += frequency
        }
        var found = symbols[symbolsAt]
        for (bucket in 0 until (1 shl ROW_BITS)) {
            found = symbolAt(bucket shl BUCKET_BITS, found, alpha, row)
            buckets[(alpha shl ALPHA_BITS) + (row shl ROW_BITS) + bucket] = found
        }
    }

    private fun frequencies(
        draws: Int,
        alpha: Int,
    ): IntArray {
        val weights = LongArray(draws + 1)
        weights[0] = FIRST_WEIGHT
        for (k in 0 until draws / 2) {
            val above = weights[k] * (draws - k) * (16L * k + alpha)
            weights[k + 1] = above / ((k + 1) * (16L * (draws - k - 1) + alpha))
        }
        for (k in draws / 2 + 1..draws) weights[k] = weights[draws - k]
        val total = weights.sum()
        val row = IntArray(draws + 1) { (1 + weights[it] * (TOTAL - (draws + 1)) / total).toInt() }
        row[row.indexOf(row.max())] += TOTAL - row.sum()
        return row
    }
}
