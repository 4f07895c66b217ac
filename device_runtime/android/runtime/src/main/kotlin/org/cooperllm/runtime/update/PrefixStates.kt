package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.AdapterVersion
import org.cooperllm.runtime.zo.FloatVector
import java.io.Closeable

/** Private examples of which each has a number of tokens, [rows] a batch. */
internal interface CountedExamples : Examples {
    val rows: Int

    /** In tokens, of every example. */
    val lengths: IntArray
}

/**
 * Hidden states of private examples at a boundary that a task does not move: computed once, then reused.
 *
 * A direction that is zero before segment k meets, at k, the same hidden state in every round: as long as the adapter
 * before k stays the same, bit for bit, nothing before k has to run again. With the head alone active, a round costs its
 * heads and no forward. When the boundary moves on, as ChainFed's window does (arXiv 2604.06819), the states move on from
 * where they are: only the segments in between run.
 *
 * Frozen segments run one at a time, over all examples that are needed, and only that one is loaded meanwhile.
 *
 * An example's state is computed among its neighbours, positions rows * g to rows * g + rows - 1, never among those that
 * a round drew, and goes through the store at every segment: so the bits depend on examples and adapter alone, not on
 * what was drawn before, on the way of the boundary, nor on a restart.
 */
internal class PrefixStates(
    private val examples: CountedExamples,
    private val core: Core,
    private val store: StateStore,
) : Examples,
    Closeable {
    private val rows = examples.rows
    private val width = core.chain.shape.hiddenSize
    private val starts = IntArray(examples.count + 1)

    /** The segment that a group's states enter; 0: it has none. */
    private val levels = IntArray((examples.count + rows - 1) / rows)

    /** Of the adapter's segments before the boundary. */
    private var digests = emptyList<ByteArray>()

    override var firstSegment: Int = 0
        private set

    init {
        for (i in 0 until examples.count) starts[i + 1] = starts[i] + examples.lengths[i]
    }

    /** Whether these states are of the same examples and program. */
    fun areOf(
        examples: Examples,
        core: Core,
    ): Boolean = examples === this.examples && core === this.core

    /** Sets the boundary. States stay while the adapter before them is the same; they follow when used. */
    fun moveTo(firstSegment: Int): PrefixStates {
        val now = List(firstSegment, ::digest)
        var same = 0
        while (same < minOf(now.size, digests.size) && now[same].contentEquals(digests[same])) same++
        for (group in levels.indices) if (levels[group] > same) levels[group] = 0
        digests = now
        this.firstSegment = firstSegment
        return this
    }

    override val count: Int get() = examples.count

    /** The chosen examples in the order given, each batch with its hidden state. */
    override fun batches(chosen: IntArray): List<Batch> {
        advance(chosen.map { it / rows }.distinct().sorted())
        val parts = chosen.toList().chunked(rows)
        return examples.batches(chosen).mapIndexed { i, batch -> entering(batch, parts[i], firstSegment) }
    }

    /** Lets go of the states, in memory or on disk. The object is of no use afterwards. */
    override fun close() = store.close()

    /** Brings groups to the boundary, segment by segment. */
    private fun advance(groups: List<Int>) {
        for (segment in 0 until firstSegment) {
            val behind = groups.filter { levels[it] == segment }
            for (group in behind) run(group, segment)
            if (behind.isNotEmpty()) core.chain.unloadBefore(firstSegment)
        }
    }

    private fun run(
        group: Int,
        segment: Int,
    ) {
        val positions = (group * rows until minOf((group + 1) * rows, count)).toList()
        var batch = examples.batches(positions.toIntArray()).single()
        if (segment > 0) batch = entering(batch, positions, segment)
        val hidden = core.hidden(batch, segment + 1)
        levels[group] = 0 // whatever ends the next lines: half of a state is none
        forEachRow(batch, positions) { first, tokens, states, cell ->
            hidden.read(cell * width, states, tokens * width)
            store.write(first, tokens, states)
        }
        levels[group] = segment + 1
    }

    private fun entering(
        batch: Batch,
        positions: List<Int>,
        segment: Int,
    ): Batch {
        val hidden = FloatVector.allocate(batch.inputIds.size * width)
        forEachRow(batch, positions) { first, tokens, states, cell ->
            store.read(first, tokens, states)
            hidden.write(cell * width, states, tokens * width)
        }
        return batch.entering(segment, hidden)
    }

    /** Every position's first token in the store, its tokens, room for their states, and its first cell in the batch. */
    private inline fun forEachRow(
        batch: Batch,
        positions: List<Int>,
        action: (first: Int, tokens: Int, states: FloatArray, cell: Int) -> Unit,
    ) {
        val states = FloatArray(batch.tokens * width)
        for ((row, position) in positions.withIndex()) {
            val tokens = examples.lengths[position]
            val cells = row * batch.tokens until (row + 1) * batch.tokens
            val cell = cells.firstOrNull { batch.attentionMask[it] == 1L } ?: continue
            check(cells.count { batch.attentionMask[it] == 1L } == tokens) { "as many tokens as were counted" }
            action(starts[position], tokens, states, cell)
        }
    }

    private fun digest(segment: Int): ByteArray {
        val layout = core.chain.layout
        val slice = core.adapter.view(layout.segmentOffset(segment), layout.segmentCount(segment))
        return AdapterVersion.sha256(FloatVector(slice))
    }
}
