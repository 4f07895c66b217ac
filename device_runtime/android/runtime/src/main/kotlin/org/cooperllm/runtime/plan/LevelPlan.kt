package org.cooperllm.runtime.plan

/**
 * The runs of a [Plan] in streaming order: all runs of one segment before any of the next, so that what a segment needs
 * (its slice of a guide) is needed once, for all strings, and never again.
 *
 * Before the head, runs of one label follow each other, in the order in which labels first appear: the adapter is
 * perturbed once a label. At the head, runs on one state do. The states of a level lie in slots; the last child of a
 * state writes over it, so there are as many slots as distinct strings without their heads.
 *
 * Pure: knows no program, no adapter and no clock.
 */
internal class LevelPlan {
    private val tree = Plan()
    private var walk = IntArray(0)
    private var from = IntArray(0)
    private var to = IntArray(0)

    /** How many segment runs there are: those of [Plan]. */
    val runs: Int get() = tree.runs

    /** How many hidden states are held at once. Slot 0 holds the embedded batch at the start. */
    var slots: Int = 1
        private set

    /** Plans [evaluations] strings; `labels[e * positions + p]` is the label of evaluation e at position p. */
    fun build(
        labels: IntArray,
        evaluations: Int,
        positions: Int,
    ) {
        tree.build(labels, evaluations, positions)
        walk = order(positions - 1)
        val parents = parents(positions)
        val lastChild = IntArray(runs + 1)
        for (run in walk) lastChild[parents[run]] = run
        val slotAfter = IntArray(runs + 1)
        from = IntArray(runs)
        to = IntArray(runs)
        slots = 1
        for (run in walk) {
            from[run] = slotAfter[parents[run]]
            val keeps = tree.position(run) + 1 < positions && lastChild[parents[run]] != run
            to[run] = if (keeps) slots++ else from[run]
            slotAfter[run] = to[run]
        }
    }

    /** The segment of a run; the last position is the head. */
    fun position(run: Int): Int = tree.position(walk[run])

    /** What is in that segment's slice of the adapter. */
    fun label(run: Int): Int = tree.label(walk[run])

    /** The slot that a run reads. */
    fun fromSlot(run: Int): Int = from[walk[run]]

    /** The slot that it writes; at the head, the one that it reads. */
    fun toSlot(run: Int): Int = to[walk[run]]

    /** How many evaluations this run is for. */
    fun evaluationCount(run: Int): Int = tree.evaluationCount(walk[run])

    /** The number of a run's evaluation, [index] from 0. */
    fun evaluation(
        run: Int,
        index: Int,
    ): Int = tree.evaluation(walk[run], index)

    /** By run of the tree: the one that made the state which it starts from; [runs] for the embedded batch. */
    private fun parents(positions: Int): IntArray {
        val latest = IntArray(positions + 1) { runs }
        return IntArray(runs) { run ->
            val position = tree.position(run)
            latest[position + 1] = run
            latest[position]
        }
    }

    /** The tree's runs by position; there by label, and at the [head] as they are. */
    private fun order(head: Int): IntArray {
        val firstSeen = HashMap<Pair<Int, Int>, Int>()
        val ranks =
            IntArray(runs) { run ->
                val position = tree.position(run)
                if (position == head) run else firstSeen.getOrPut(position to tree.label(run)) { run }
            }
        return (0 until runs).sortedWith(compareBy({ tree.position(it) }, { ranks[it] }, { it })).toIntArray()
    }
}
