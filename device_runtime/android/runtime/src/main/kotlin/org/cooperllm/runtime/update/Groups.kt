package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.Layout

/**
 * What happens between groups of directions, and how long a group is.
 *
 * [keep] gets the scalars of each group that is not a task's last (a report keeps those). After it [goOn] is asked;
 * false ends the work there.
 */
internal class Between(
    val keep: (List<Double>) -> Unit = {},
    val goOn: () -> Boolean = { true },
    val clockNs: () -> Long = System::nanoTime,
) {
    /** Of the next group, learned from the last. */
    var directions: Int = 1
        private set

    /** Aims at [GROUP_NS] a group. */
    fun learn(
        measured: Int,
        tookNs: Long,
    ) {
        val most = MOST_GROWTH * measured
        directions = if (tookNs > 0) (measured * GROUP_NS / tookNs).coerceIn(1L, most.toLong()).toInt() else most
    }

    private companion object {
        const val GROUP_NS = 100_000_000L
        const val MOST_GROWTH = 16
    }
}

/** Guides that are still arriving, and the measurements along them. */
internal interface GuideFeed {
    /**
     * Hands [take] the projected gradients of one group after the other, float64, one a direction; or calls [whole], once
     * all guides are held, to have the same done by it.
     *
     * Raises what the core does, what ended the stream, and TaskRefused.
     */
    fun measure(
        batches: List<Batch>,
        directions: List<TaskDirection>,
        between: Between,
        whole: () -> Unit,
        take: (DoubleArray) -> Unit,
    )
}

/**
 * A step's directions, measured a few at a time: between two groups what is finished is kept, and work may end.
 *
 * Groups cost no segment run. Directions that share a perturbed prefix stay together; what comes before the first
 * segment that a direction moves is the same for all groups, so its hidden states are computed once and every group
 * enters the chain there. A group's own cost is one run of `embed` a batch.
 */
internal class Groups(
    private val core: Core,
    private val exitSegment: Int,
    private val between: Between,
) {
    private val layout: Layout = core.chain.layout
    private val head = core.chain.shape.segments

    /**
     * Hands [measure] one group after the other, in order. Where the head takes what leaves segment exitSegment - 1
     * (0: the last one), no group enters behind that.
     */
    fun forEach(
        batches: List<Batch>,
        directions: List<TaskDirection>,
        measure: (List<Batch>, List<TaskDirection>) -> Unit,
    ) {
        if (directions.isEmpty()) return
        val units = units(directions)
        val firsts = units.map { entry(it) }.distinct().sorted()
        val sizeBytes = batches.sumOf { FLOAT_BYTES * core.chain.shape.hiddenSize * it.inputIds.size }
        if (units.size == 1 || (firsts != listOf(0) && sizeBytes * firsts.size > MOST_ENTRY_BYTES)) {
            measure(batches, directions)
            return
        }
        val entered = enter(batches, firsts)
        var at = 0
        while (at < units.size) {
            val first = entry(units[at])
            val group = units[at++].toMutableList()
            // The shorter the rest of the chain, the more a group's run of `embed` weighs.
            val rest = head + 1 - first
            val size = maxOf(between.directions, (first + rest - 1) / rest)
            while (at < units.size && group.size < size && entry(units[at]) == first) group += units[at++]
            val startNs = between.clockNs()
            measure(entered.getValue(first), group)
            between.learn(group.size, between.clockNs() - startNs)
        }
    }

    /** What the planner must see at once to share its runs: neighbours that do the same before a boundary. */
    fun units(directions: List<TaskDirection>): List<List<TaskDirection>> {
        val units = mutableListOf<MutableList<TaskDirection>>()
        for (next in directions) {
            val last = units.lastOrNull()
            val shares =
                last != null &&
                    firstMoved(next) < next.direction.boundary &&
                    last[0].exact == next.exact &&
                    last[0].direction.doesTheSameBefore(next.direction, head + 1)
            if (shares) last.add(next) else units += mutableListOf(next)
        }
        return units
    }

    private fun entry(unit: List<TaskDirection>): Int =
        minOf(firstMoved(unit[0]), if (exitSegment == 0) head else exitSegment)

    /** The first segment in which a direction can be non-zero: the last one, where there is none. */
    private fun firstMoved(direction: TaskDirection): Int =
        (0..head).firstOrNull { direction.direction.isActive(it) && layout.segmentTensors(it).isNotEmpty() } ?: head

    /** The batches with the hidden states that enter each of these segments (ascending), each run once. */
    private fun enter(
        batches: List<Batch>,
        firsts: List<Int>,
    ): Map<Int, List<Batch>> {
        var now = batches
        return firsts.associateWith { first ->
            now = now.map { if (first > it.firstSegment) it.entering(first, core.hidden(it, first)) else it }
            now
        }
    }

    private companion object {
        const val FLOAT_BYTES = 4L
        const val MOST_ENTRY_BYTES = 16L * 1024 * 1024
    }
}
