package org.cooperllm.runtime.zo

/**
 * Reads a stream of coded integers, chunk by chunk: quantised guides and deltas of adapter versions.
 *
 * The magnitudes of a chunk are a binary tree of sums. The root holds the chunk's sum; of every node with a positive sum
 * the stream says how much of it lies in the left half, as a symbol of an interleaved range coder (rANS; Duda, arXiv
 * 1311.2540; Giesen, arXiv 1402.3392) whose words come from the front; raw bits come from the back. The byte format is
 * that of device_runtime/zo/code.py.
 *
 * Whatever the bytes say, a read stays inside them and what is held is the same: a chunk's sums. What is missing reads as
 * 0 and makes the stream damaged. The stream is [data] from index [from] on.
 */
internal class IntegerDecoder(
    private val data: ByteArray,
    from: Int,
) {
    private val bits = RawBits(data, minOf(from + STATES_BYTES, data.size))
    private var front = from
    private var state = 0 // of the next symbol's lane; states are unsigned
    private var otherState = 0
    private var isDamaged = data.size - from < STATES_BYTES
    private val alphas = ALPHAS_AT_START.copyOf()
    private val sums = LongArray(CHUNK) // of the nodes that begin at an entry; meaningless where none does
    private var nodes = IntArray(CHUNK)
    private var halves = IntArray(CHUNK)

    /** How many integers of the last chunk are not zero. */
    var found: Int = 0
        private set

    init {
        if (!isDamaged) {
            state = word(from) or (word(from + 2) shl WORD_BITS)
            otherState = word(from + 4) or (word(from + 6) shl WORD_BITS)
            front = from + STATES_BYTES
        }
    }

    /** Where in its chunk the integer number [i] of those found is; they ascend. */
    fun place(i: Int): Int = nodes[i]

    fun value(i: Int): Int = sums[nodes[i]].toInt()

    /** Decodes the next [count] integers: [CHUNK] of them, fewer in the last chunk alone. False when it is damaged. */
    fun next(count: Int): Boolean {
        found = 0
        val length = bits.take(LENGTH_BITS).toInt()
        if (!isWhole() || length > MOST_LENGTH) return false
        if (length == 0) return true
        val root = (1L shl length - 1) or bits.take(length - 1)
        if (!isWhole() || root > count * LARGEST) return false
        if (bits.take(1) != 0L) for (group in alphas.indices) alphas[group] = bits.take(ALPHA_BITS).toInt()
        found = 1
        nodes[0] = 0
        sums[0] = root
        for (level in Int.SIZE_BITS - (count - 1).countLeadingZeroBits() downTo 1) {
            if (!isWhole()) return false
            splitLevel(1 shl level - 1, count, alphas[minOf(level, GROUPS) - 1])
        }
        return isWhole() && addSigns() && isWhole()
    }

    /** Whether the stream ended where the encoder began. */
    fun isComplete(): Boolean = isWhole() && state == LOWEST && otherState == LOWEST && bits.endAt(front)

    private fun isWhole() = !isDamaged && !bits.isDamaged

    /** Replaces the nodes by those of half the size whose sums are positive. The lanes take turns. */
    private fun splitLevel(
        half: Int,
        count: Int,
        alpha: Int,
    ) {
        val whole = nodes
        val into = halves
        var next = 0
        for (node in 0 until found) {
            val leftAt = whole[node]
            val rightAt = leftAt + half
            if (rightAt >= count) { // all of it is on the left
                into[next++] = leftAt
                continue
            }
            val total = sums[leftAt]
            val symbol = symbol(alpha, if (total < CodeTables.EXACT) total.toInt() else CodeTables.EXACT)
            val left = if (total <= CodeTables.EXACT) symbol.toLong() else leftOf(total, symbol)
            sums[leftAt] = left
            sums[rightAt] = total - left
            // Written before it is known whether they are positive: no branch. There are at most `count` in all, and
            // what is none is written over.
            into[next] = leftAt
            next += signOf(-left)
            into[next] = rightAt
            next += signOf(left - total)
        }
        found = next
        nodes = into
        halves = whole
    }

    private fun symbol(
        alpha: Int,
        row: Int,
    ): Int {
        val now = state
        val slot = now and SLOT_MASK
        val rowAt = (alpha shl CodeTables.ALPHA_BITS) + (row shl CodeTables.ROW_BITS)
        var packed = CodeTables.buckets[rowAt + (slot shr CodeTables.BUCKET_BITS)]
        val behind = slot - CodeTables.startOf(packed)
        if (behind >= CodeTables.frequencyOf(packed)) packed = CodeTables.symbolAt(slot, packed, alpha, row)
        var after =
            CodeTables.frequencyOf(packed) * (now ushr CodeTables.TOTAL_BITS) + slot - CodeTables.startOf(packed)
        if (after ushr WORD_BITS == 0) {
            if (data.size - front >= 2) {
                after = (after shl WORD_BITS) or word(front)
                front += 2
            } else {
                isDamaged = true
            }
        }
        state = otherState
        otherState = after
        return CodeTables.symbolOf(packed)
    }

    /** The left part of a sum that has no row of its own: the symbol says which sixteenth, raw bits the rest. */
    private fun leftOf(
        total: Long,
        symbol: Int,
    ): Long {
        val low = lowestOf(symbol, total)
        return low + bits.phased(lowestOf(symbol + 1, total) - low)
    }

    private fun lowestOf(
        symbol: Int,
        total: Long,
    ): Long = (symbol * (total + 1) + CodeTables.EXACT) shr LARGE_BITS

    private fun addSigns(): Boolean {
        var isInRange = true
        var done = 0
        while (done < found) {
            val count = minOf(Int.SIZE_BITS, found - done)
            var signs = bits.take(count)
            repeat(count) {
                val at = nodes[done++]
                val negative = signs and 1
                signs = signs shr 1
                if (sums[at] >= LARGEST + negative) isInRange = false
                sums[at] = (sums[at] xor -negative) + negative // two's complement
            }
        }
        return isInRange
    }

    private fun word(at: Int): Int = (data[at].toInt() and BYTE) or (data[at + 1].toInt() and BYTE shl 8)

    /** 1 for a negative number, else 0. */
    private fun signOf(number: Long): Int = (number ushr Long.SIZE_BITS - 1).toInt()

    companion object {
        /** Entries that share a tree. */
        const val CHUNK: Int = 4096

        /** Sizes of node that have an alpha of their own. */
        private const val GROUPS = 6
        private val ALPHAS_AT_START = intArrayOf(9, 12, 15, 15, 8, 7)
        private const val STATES_BYTES = 8
        private const val LENGTH_BITS = 6
        private const val ALPHA_BITS = 4
        private const val WORD_BITS = 16
        private const val LOWEST = 1 shl WORD_BITS
        private const val SLOT_MASK = (1 shl CodeTables.TOTAL_BITS) - 1
        private const val BYTE = 0xFF

        /** A larger sum is coded in sixteenths. */
        private const val LARGE_BITS = 4

        /** 2^31: magnitudes are of int32. */
        private const val LARGEST = 1L shl 31

        /** No sum is longer, in bits: 31 + 12 + 1. What is checked by it keeps what is taken at once below 57. */
        private const val MOST_LENGTH = 44
    }
}
