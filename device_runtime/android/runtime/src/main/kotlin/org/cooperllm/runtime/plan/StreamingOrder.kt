package org.cooperllm.runtime.plan

/**
 * What a step needs, in bytes: [guideBytes] of all guides together once decoded, by segment that runs, in order;
 * [stateBytes] of one hidden state of every batch together, [contextBytes] of what goes with them however many there
 * are. [unit] neighbouring directions share the runs of a prefix: they are not torn apart where they fit.
 */
internal class StreamingSizes(
    val guideBytes: List<Long>,
    val stateBytes: Long,
    val directions: Int,
    val contextBytes: Long = 0,
    val unit: Int = 1,
)

/**
 * In which order a task's directions run, so that as few bytes as needed are held: [group] directions at a time in
 * streaming order, 0 for direction by direction on whole guides.
 *
 * With D directions over guides whose segment k takes g_k bytes, S bytes for a state and X for a context, three orders
 * give the same scalars, bit for bit:
 *
 *     whole guides       direction by direction                   sum_k g_k
 *     streaming order    segment by segment, each for all         max_k (g_k + g_{k+1}) + 2 D S + X
 *     groups of G        the same, G directions at a time         max_k (g_k + g_{k+1}) + 2 G S + X
 *
 * Streaming order starts with the first segment that arrives, not the last; the larger the group, the less is waited for.
 * So the largest group that memory allows is taken, and whole guides where it allows none. The rules are those of the
 * Python device (streaming.py).
 */
internal data class StreamingOrder(
    val group: Int,
    val heldBytes: Long,
) {
    companion object {
        /** Where no limit was set. */
        const val MOST_BYTES: Long = 64L * 1024 * 1024

        /** What is held for whole guides. */
        fun wholeBytes(sizes: StreamingSizes): Long = sizes.guideBytes.sum()

        /** What is held in streaming order. Of guides, that is at most the two largest segments. */
        fun streamedBytes(
            sizes: StreamingSizes,
            group: Int,
        ): Long {
            val neighbours = sizes.guideBytes.zip(sizes.guideBytes.drop(1) + 0L) { one, other -> one + other }
            return (neighbours.maxOrNull() ?: 0) + 2 * group * sizes.stateBytes + sizes.contextBytes
        }

        /** The largest group whose bytes fit into [leftBytes]; where nothing fits, whichever order holds least. */
        fun choose(
            sizes: StreamingSizes,
            leftBytes: Long = MOST_BYTES,
        ): StreamingOrder {
            val whole = StreamingOrder(0, wholeBytes(sizes))
            if (whole.heldBytes == 0L || sizes.directions == 0) return whole
            val spareBytes = leftBytes - streamedBytes(sizes, 0)
            val most = if (sizes.stateBytes == 0L) Long.MAX_VALUE else Math.floorDiv(spareBytes, 2 * sizes.stateBytes)
            var group = minOf(sizes.directions.toLong(), most).coerceAtLeast(0).toInt()
            if (group >= sizes.unit && group < sizes.directions) group -= group % sizes.unit
            if (group >= 1) return StreamingOrder(group, streamedBytes(sizes, group))
            val one = StreamingOrder(1, streamedBytes(sizes, 1))
            return if (whole.heldBytes <= maxOf(leftBytes, one.heldBytes)) whole else one
        }
    }
}
