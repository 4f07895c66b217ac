package org.cooperllm.runtime.session

import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.zo.FloatVector
import kotlin.math.abs
import kotlin.math.sqrt

/**
 * How much each segment still changes what the first one was given: the linear CKA (Kornblith et al. 2019, arXiv
 * 1905.00414) of its output with the first segment's input, over a batch of private examples, each the mean of its
 * tokens' hidden states. FOAT of ChainFed (arXiv 2604.06819) starts the chain by it.
 */
internal object SegmentScores {
    /** The scores of all segments, each in [0, 1]; one segment is loaded at a time. Raises LossNotFinite when a state is not a number. */
    fun of(
        core: Core,
        batches: List<Batch>,
    ): List<Double> {
        val segments = core.chain.shape.segments
        val first = gram(means(core, batches, batches.map { core.hidden(it, 0) }))
        core.chain.unloadBefore(segments)
        var entering = batches
        return List(segments) { segment ->
            val left = entering.map { core.hidden(it, segment + 1) }
            core.chain.unloadBefore(segments)
            entering = entering.indices.map { entering[it].entering(segment + 1, left[it]) }
            alignment(first, gram(means(core, entering, left)))
        }
    }

    /** ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) by the Gram matrices; 0 where all examples are the same in one of them. */
    private fun alignment(
        first: Array<DoubleArray>,
        second: Array<DoubleArray>,
    ): Double {
        // ||Y'X||_F^2 = <XX', YY'>, so width plays no part.
        val norms = sqrt(product(first, first)) * sqrt(product(second, second))
        return if (norms == 0.0) 0.0 else (product(first, second) / norms).coerceIn(0.0, 1.0)
    }

    private fun product(
        first: Array<DoubleArray>,
        second: Array<DoubleArray>,
    ): Double = first.indices.sumOf { i -> first[i].indices.sumOf { j -> first[i][j] * second[i][j] } }

    /** XX' of examples (n, D) whose columns are centred, at a scale of its own, which CKA does not see. */
    private fun gram(examples: List<DoubleArray>): Array<DoubleArray> {
        val width = examples[0].size
        val mean = DoubleArray(width) { column -> examples.sumOf { it[column] } / examples.size }
        val centred = examples.map { row -> DoubleArray(width) { row[it] - mean[it] } }
        val largest = centred.fold(0.0) { most, row -> row.fold(most) { now, value -> Math.max(now, abs(value)) } }
        if (!largest.isFinite()) {
            throw LossNotFinite("a hidden state is not finite: publish an earlier adapter version")
        }
        val unit = if (largest > 0) largest else 1.0
        return Array(centred.size) { i ->
            DoubleArray(centred.size) { j -> (0 until width).sumOf { centred[i][it] / unit * (centred[j][it] / unit) } }
        }
    }

    /** The mean hidden state of every example's tokens, without rows of weight 0. */
    private fun means(
        core: Core,
        batches: List<Batch>,
        hidden: List<FloatVector>,
    ): List<DoubleArray> =
        batches.indices.flatMap { number ->
            val batch = batches[number]
            val width = core.chain.shape.hiddenSize
            val states = FloatArray(hidden[number].count).also { hidden[number].read(0, it, it.size) }
            batch.weights.indices.filter { batch.weights[it] != 0.0 }.map { row ->
                val tokens =
                    (row * batch.tokens until (row + 1) * batch.tokens).filter {
                        batch.attentionMask[it] == 1L
                    }
                DoubleArray(width) { column ->
                    if (tokens.isEmpty()) 0.0 else tokens.sumOf { states[it * width + column].toDouble() } / tokens.size
                }
            }
        }
}
