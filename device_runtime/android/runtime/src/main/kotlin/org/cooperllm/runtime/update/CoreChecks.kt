package org.cooperllm.runtime.update

import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.DirectionBelowGrid
import org.cooperllm.runtime.DirectionOutOfRange
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.DirectionKernels
import org.cooperllm.runtime.zo.RoundingSums
import org.cooperllm.runtime.zo.ZoStatus

/** What a kernel refused, as an error that a report can tell. */
internal fun refusalOf(
    status: ZoStatus,
    what: String,
): CooperLLMError =
    when (status) {
        ZoStatus.NOT_FINITE -> BadArtifact("$what: a value is not finite: drop its guide or scale")
        ZoStatus.OUT_OF_RANGE -> DirectionOutOfRange("$what: 2^23 grid steps or more: use a smaller epsilon")
        else -> UnsupportedTask("$what: epsilon, scales and coefficients must be finite, and epsilon above 0")
    }

/** What a direction is told that rounding changes too much, and what would do. */
internal fun belowGrid(
    name: String,
    enough: Double,
    doublings: Int,
): DirectionBelowGrid {
    val advice = "use epsilon $enough, or exponents higher by $doublings"
    return DirectionBelowGrid("$name: rounding changes it by over 2 %: $advice", enough, doublings)
}

/** The first part of a call of [Core]: all that can be refused is refused here, in words, before the first move. */
internal class CoreChecks(
    private val chain: Chain,
    private val kernels: DirectionKernels,
) {
    private val shape = chain.shape
    private val positions = shape.segments + 1
    private var used = BooleanArray(0)

    /** The segment that the head comes after: 1 .. K. Raises UnsupportedTask. */
    fun exitOf(objective: Objective): Int {
        if (objective.exitSegment !in 0..shape.segments) {
            refuse("exit_segment is ${objective.exitSegment}: use 1 to ${shape.segments}, or 0 for the whole chain")
        }
        if (!objective.globalWeight.isFinite() || objective.globalWeight < 0.0) {
            refuse("global_weight must be finite and not negative")
        }
        if (objective.globalWeight > 0.0 && !chain.hasAuxiliaries()) {
            refuse("the program has no auxiliary branch: use global_weight 0, or a bundle exported with bottlenecks")
        }
        return if (objective.exitSegment == 0) shape.segments else objective.exitSegment
    }

    /** Raises UnsupportedTask for a batch that the program does not take, or when nothing in them counts. */
    fun checkBatches(
        batches: List<Batch>,
        exit: Int,
    ) {
        if (batches.isEmpty()) refuse("no batch was given")
        var anyCounts = false
        for (batch in batches) {
            checkSizes(batch)
            if (if (batch.hidden == null) batch.firstSegment != 0 else batch.firstSegment !in 1..shape.segments) {
                refuse("a batch's hidden state must come with the segment that it enters, 1 to ${shape.segments}")
            }
            if (batch.firstSegment > exit) {
                refuse("a batch enters at segment ${batch.firstSegment}, behind the last one that runs")
            }
            if (batch.weights.any { !it.isFinite() || it < 0.0 }) refuse("a row's weight is negative or not finite")
            if (checkLabels(batch)) anyCounts = true
        }
        if (anyCounts) return
        refuse(if (shape.targetsAreTokens) "no token of a row with a weight has a target" else "every row has weight 0")
    }

    private fun checkSizes(batch: Batch) {
        if (batch.tokens !in 1..shape.maxTokens) {
            refuse("a batch has ${batch.tokens} tokens a row; the program takes 1 to ${shape.maxTokens}")
        }
        val cells = shape.batchExamples * batch.tokens
        val labels = if (shape.targetsAreTokens) cells else shape.batchExamples
        if (batch.inputIds.size != cells || batch.attentionMask.size != cells || batch.labels.size != labels ||
            batch.weights.size != shape.batchExamples
        ) {
            refuse("a batch's arrays are not of ${shape.batchExamples} rows of ${batch.tokens} tokens")
        }
        if (batch.hidden != null && batch.hidden.count != cells * shape.hiddenSize) {
            refuse("a batch's hidden state is not of its shape")
        }
    }

    /** Whether any label of the batch counts. */
    private fun checkLabels(batch: Batch): Boolean {
        val tokens = shape.targetsAreTokens
        val count = if (tokens) shape.vocabulary else shape.classes
        var anyCounts = false
        for (i in batch.labels.indices) {
            val label = batch.labels[i]
            val isNone = tokens && label == NO_TARGET
            if (!isNone && (label < 0 || label >= count)) {
                refuse("label $label is outside the $count ${if (tokens) "tokens" else "classes"}")
            }
            if (!isNone && batch.weights[if (tokens) i / batch.tokens else i] > 0.0) anyCounts = true
        }
        return anyCounts
    }

    /**
     * Checks each direction in the segments where a label names it. [labels] is one row of K + 1 an evaluation.
     *
     * Raises BadArtifact, DirectionOutOfRange, DirectionBelowGrid or UnsupportedTask.
     */
    fun checkDirections(
        labels: IntArray,
        directions: List<Direction>,
        epsilon: Double,
    ) {
        if (labels.isEmpty() || labels.size % positions != 0) {
            refuse("labels must be one row of $positions an evaluation")
        }
        val size = directions.size * positions
        if (used.size < size) used = BooleanArray(size) else used.fill(false)
        for (i in labels.indices) {
            if (labels[i] == 0) continue
            val direction = Math.abs(labels[i]) - 1
            if (direction !in directions.indices) refuse("label ${labels[i]} names no direction")
            used[direction * positions + i % positions] = true
        }
        for (d in directions.indices) checkDirection(d, directions[d], epsilon)
    }

    /**
     * Before a hidden state that was handed in and behind the exit nothing runs: a perturbation there would be left out
     * in silence.
     */
    fun checkEntry(
        batches: List<Batch>,
        labels: IntArray,
        exit: Int,
    ) {
        val latest = batches.maxOf { it.firstSegment }
        for (i in labels.indices) {
            if (labels[i] == 0) continue
            val position = i % positions
            if (position < latest) refuse("a direction perturbs a segment before a batch's hidden state")
            if (position >= exit && position < shape.segments) {
                refuse("a direction perturbs segment $position, which does not run: exit_segment is $exit")
            }
        }
    }

    /** Whether every direction is active in the head alone, as a slope without differences wants it. */
    fun checkSlopes(directions: List<Direction>) {
        if (!chain.head.hasGradient) {
            refuse("the program has no method head_gradient: ask for differences, or export again")
        }
        for (direction in directions) {
            if (!direction.isActive(shape.segments) || (0 until shape.segments).any { direction.isActive(it) }) {
                refuse("slopes without differences are had of directions in the head alone")
            }
        }
    }

    /**
     * Refuses what leaves the range or drowns in the grid. Doubling epsilon rounds exactly as raising every exponent by
     * one does, so one search names both remedies.
     */
    private fun checkDirection(
        number: Int,
        direction: Direction,
        epsilon: Double,
    ) {
        val name = "direction $number"
        val sums = RoundingSums()
        val status = squaredNorms(number, direction, epsilon, sums)
        if (status != ZoStatus.OK) throw refusalOf(status, name)
        if (sums.isFaithful()) return
        for (doublings in 1..Int.MAX_VALUE) {
            val enough = Math.scalb(epsilon, doublings)
            val there = RoundingSums()
            if (squaredNorms(number, direction, enough, there) != ZoStatus.OK) break
            if (!there.isFaithful()) continue
            throw belowGrid(name, enough, doublings)
        }
        throw DirectionBelowGrid("$name: rounding changes it by over 2 % at every epsilon in range: flatten it")
    }

    private fun squaredNorms(
        number: Int,
        direction: Direction,
        epsilon: Double,
        sums: RoundingSums,
    ): ZoStatus {
        for (tensor in chain.layout.tensors) {
            if (!used[number * positions + tensor.segment]) continue
            val status = kernels.check(tensor, direction, epsilon, sums)
            if (status != ZoStatus.OK) return status
        }
        return ZoStatus.OK
    }

    private fun refuse(message: String): Nothing = throw UnsupportedTask(message)
}
