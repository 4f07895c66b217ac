package org.cooperllm.runtime.update

import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.FloatVector

/** The label of a token without a target. */
internal const val NO_TARGET: Long = -100L

/**
 * A padded batch: B rows of [tokens] tokens. Rows of weight 0 count nothing.
 *
 * [inputIds] and [attentionMask] (B * tokens, row by row); [labels] one a row, or one a token where the targets are
 * tokens, [NO_TARGET] for none; [weights] (B). Where [hidden] (B * tokens * D) is set, it is what enters
 * [firstSegment], 1 .. K, and nothing before that segment runs.
 */
internal class Batch(
    val inputIds: LongArray,
    val attentionMask: LongArray,
    val labels: LongArray,
    val weights: DoubleArray,
    val tokens: Int,
    val hidden: FloatVector? = null,
    val firstSegment: Int = 0,
) {
    /** The same batch with the hidden state that enters a later segment. */
    fun entering(
        segment: Int,
        state: FloatVector,
    ): Batch = Batch(inputIds, attentionMask, labels, weights, tokens, state, segment)
}

/**
 * What a loss is. The head takes what leaves segment [exitSegment] - 1 (0: the whole chain): the local loss.
 *
 * With a weight, ChainFed's loss (arXiv 2604.06819): local + [globalWeight] * global, where global is what the head says
 * behind the auxiliary branches of segments exitSegment .. K - 1, in float64, row by row.
 */
internal class Objective(
    val exitSegment: Int = 0,
    val globalWeight: Double = 0.0,
)

/** Sums over rows in order, weight * loss and weight * count, over all batches; one an evaluation. */
internal class Losses(
    val lossSum: DoubleArray,
    val count: DoubleArray,
) {
    /** Adds a batch's rows, in order, to an evaluation. Raises LossNotFinite. */
    fun add(
        batch: Batch,
        rows: HeadRows,
        evaluation: Int,
    ) {
        for (row in batch.weights.indices) {
            val weight = batch.weights[row]
            if (weight == 0.0) continue // padding: whatever stands there, NaN included, counts nothing
            if (!rows.loss[row].isFinite()) throw lossNotFinite()
            lossSum[evaluation] += weight * rows.loss[row]
            count[evaluation] += weight * rows.count[row]
        }
    }

    /** The projected gradients of directions whose two evaluations follow each other. Raises LossNotFinite. */
    fun measurement(epsilon: Double): Measurement {
        val directions = lossSum.size / 2
        val plus = DoubleArray(directions) { lossSum[2 * it] / count[2 * it] }
        val minus = DoubleArray(directions) { lossSum[2 * it + 1] / count[2 * it + 1] }
        val rho = DoubleArray(directions) { (plus[it] - minus[it]) / (2.0 * epsilon) }
        if (!rho.all { it.isFinite() }) throw lossNotFinite()
        return Measurement(rho, plus, minus)
    }
}

internal fun lossNotFinite(): LossNotFinite =
    LossNotFinite("the loss is not finite: use a smaller epsilon or learning rate")

/** rho = ([lossPlus] - [lossMinus]) / (2 epsilon), nats a unit of z'; one a direction. */
internal class Measurement(
    val rho: DoubleArray,
    val lossPlus: DoubleArray,
    val lossMinus: DoubleArray,
)

/** Summed loss in nats, the number of targets, and of those in rows of non-zero weight that were right. */
internal class Evaluation(
    val lossSum: Double,
    val count: Double,
    val correct: Long,
)

/** Runs and time since the start. */
internal class Counters(
    segments: Int,
) {
    var embedRuns: Long = 0

    /** K + 1 entries, the head's last. */
    val segmentRuns = LongArray(segments + 1)

    /** The time in them, K + 1 entries. */
    val segmentNs = LongArray(segments + 1)

    /** K entries. */
    val auxiliaryRuns = LongArray(segments)

    /** Inside the program. */
    var forwardNs: Long = 0
    var perturbNs: Long = 0
    var totalNs: Long = 0

    /** Runs a method and counts the time, also as that of [segment] where there is one. */
    fun timed(
        program: Program,
        method: String,
        inputs: Array<Value>,
        segment: Int = NO_SEGMENT,
    ): Array<Value> {
        val start = System.nanoTime()
        try {
            return program.run(method, inputs)
        } finally {
            val took = System.nanoTime() - start
            forwardNs += took
            if (segment != NO_SEGMENT) segmentNs[segment] += took
        }
    }

    /** Starts from zero. */
    fun reset() {
        embedRuns = 0
        segmentRuns.fill(0)
        segmentNs.fill(0)
        auxiliaryRuns.fill(0)
        forwardNs = 0
        perturbNs = 0
        totalNs = 0
    }

    private companion object {
        const val NO_SEGMENT = -1
    }
}
