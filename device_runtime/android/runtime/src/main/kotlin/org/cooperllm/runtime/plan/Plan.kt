package org.cooperllm.runtime.plan

/**
 * The planner: the fewest segment runs that give a set of losses.
 *
 * Every loss that is wanted is a string of labels, one a segment: 0 is the adapter as it is, +(d+1) and -(d+1) are
 * direction d added and subtracted in that segment. Two strings with a common beginning share the hidden state after
 * it, so the runs that are needed are the nodes of the trie of these strings: no segment runs twice on the same input.
 * SPSA, directions that are zero before some segment and FedSPZO's two blocks differ only in their strings.
 *
 * The nodes are visited depth first, children in the order in which their labels first appear. So between a run and
 * those that start from its output only later positions run: where each segment's output lasts until that segment runs
 * again, no hidden state is ever copied.
 *
 * Pure: knows no program, no adapter and no clock. Keeps its memory from one [build] to the next.
 */
internal class Plan {
    /** How many segment runs there are. */
    var runs: Int = 0
        private set

    private var fields = IntArray(FIELDS * 64)
    private var order = IntArray(0)
    private var others = IntArray(0)
    private var labels = IntArray(0)
    private var positions = 0

    /** Plans [evaluations] strings; `labels[e * positions + p]` is the label of evaluation e at position p. */
    fun build(
        labels: IntArray,
        evaluations: Int,
        positions: Int,
    ) {
        require(labels.size >= evaluations * positions) { "one label for every evaluation and position" }
        this.labels = labels
        this.positions = positions
        if (order.size < evaluations) {
            order = IntArray(evaluations)
            others = IntArray(evaluations)
        }
        for (evaluation in 0 until evaluations) order[evaluation] = evaluation
        runs = 0
        if (evaluations > 0 && positions > 0) descend(0, evaluations, 0)
    }

    /** The segment of a run; the last position is the head. */
    fun position(run: Int): Int = fields[FIELDS * run]

    /** What is in that segment's slice of the adapter. */
    fun label(run: Int): Int = fields[FIELDS * run + 1]

    /** How many evaluations this run is for: those of which the head's losses are part. */
    fun evaluationCount(run: Int): Int = fields[FIELDS * run + 3]

    /** The number of a run's evaluation, [index] from 0. */
    fun evaluation(
        run: Int,
        index: Int,
    ): Int = order[fields[FIELDS * run + 2] + index]

    /** The evaluations in `order[begin, end)` agree on everything before [position]. */
    private fun descend(
        begin: Int,
        end: Int,
        position: Int,
    ) {
        var first = begin
        while (first < end) {
            val label = labels[order[first] * positions + position]
            val next = gather(first, end, position, label)
            add(position, label, first, next - first)
            if (position + 1 < positions) descend(first, next, position + 1)
            first = next
        }
    }

    /** Brings those with a label to the front, each group in its order. Returns where the others begin. */
    private fun gather(
        begin: Int,
        end: Int,
        position: Int,
        label: Int,
    ): Int {
        var next = begin
        var left = 0
        for (at in begin until end) {
            val evaluation = order[at]
            if (labels[evaluation * positions + position] == label) {
                order[next++] = evaluation
            } else {
                others[left++] = evaluation
            }
        }
        others.copyInto(order, next, 0, left)
        return next
    }

    private fun add(
        position: Int,
        label: Int,
        firstEvaluation: Int,
        evaluationCount: Int,
    ) {
        val at = FIELDS * runs++
        if (at == fields.size) fields = fields.copyOf(2 * fields.size)
        fields[at] = position
        fields[at + 1] = label
        fields[at + 2] = firstEvaluation
        fields[at + 3] = evaluationCount
    }

    private companion object {
        const val FIELDS = 4
    }
}
