package org.cooperllm.runtime.update

import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.FloatVector
import java.nio.Buffer
import java.nio.FloatBuffer

/**
 * The last method of the chain: losses, counts and right answers of every row, in float64, until its next run.
 *
 * [adapter] are the head's tensors in the order of the layout.
 */
internal class Head(
    private val program: Program,
    private val shape: ChainShape,
    private val batch: BatchInputs,
    private val adapter: Array<Value>,
    private val counters: Counters,
) {
    /** Summed over the row's targets, in nats. */
    val loss = DoubleArray(shape.batchExamples)

    /** The number of the row's targets. */
    val count = DoubleArray(shape.batchExamples)

    /** Right answers, only where [run] was asked for them; of one label it is 0 or 1. */
    val correct = DoubleArray(shape.batchExamples)

    /** float32 (B, C), only where [run] was asked for them and each row has one label. */
    var logits: FloatArray = FloatArray(0)
        private set

    /** Whether the slope along a direction can be had without differences. */
    val hasGradient: Boolean = !shape.targetsAreTokens && GRADIENT in program.methods

    private val rows = shape.batchExamples
    private val inputs: Array<Value> = arrayOf(batch.labelInput, batch.labelInput, batch.labelInput) + adapter
    private val tokens = if (shape.targetsAreTokens) TokenInputs() else null
    private val rowWeights = FloatVector.allocate(if (hasGradient) rows else 0)
    private val rowTargets = FloatVector.allocate(if (hasGradient) rows * shape.classes else 0)
    private val gradientInputs = if (hasGradient) bindGradient() else emptyArray()

    /** Runs the head on a hidden state; right answers and logits only where they are wanted. */
    fun run(
        from: Value,
        wantAnswers: Boolean,
    ) {
        counters.segmentRuns[shape.segments]++
        if (tokens == null) runOnRows(from, wantAnswers) else tokens.runOn(from)
    }

    private fun runOnRows(
        from: Value,
        wantAnswers: Boolean,
    ) {
        inputs[0] = from
        inputs[1] = batch.maskInput
        val outputs = counters.timed(program, HEAD, inputs, shape.segments)
        if (outputs.size != OUTPUTS) throw misfit(HEAD, "it gives ${outputs.size} tensors, not $OUTPUTS")
        widen(outputs[0].floats(), loss)
        widen(outputs[1].floats(), count)
        if (!wantAnswers) return
        logits = outputs[2].floats()
        if (logits.size != rows * shape.classes) throw misfit(HEAD, "its logits are of other classes")
        for (row in 0 until rows) correct[row] = if (largest(row) == batch.labels[row].toInt()) 1.0 else 0.0
    }

    /** The first class with the largest logit. */
    private fun largest(row: Int): Int {
        val start = row * shape.classes
        var largest = 0
        for (c in 1 until shape.classes) if (logits[start + c] > logits[start + largest]) largest = c
        return largest
    }

    /**
     * Adds the gradient of sum_b w_b loss_b by the head's tensors, in the order of the layout, to [sum]; see
     * bundle.proto.
     */
    fun addGradient(
        from: Value,
        weights: DoubleArray,
        sum: DoubleArray,
    ) {
        counters.segmentRuns[shape.segments]++
        for (i in 0 until rowTargets.count) rowTargets.buffer.put(i, 0f)
        for (row in 0 until rows) {
            rowWeights.buffer.put(row, weights[row].toFloat())
            rowTargets.buffer.put(row * shape.classes + batch.labels[row].toInt(), weights[row].toFloat())
        }
        gradientInputs[0] = from
        gradientInputs[1] = batch.maskInput
        var at = 0
        for (output in counters.timed(program, GRADIENT, gradientInputs, shape.segments)) {
            for (value in output.floats()) {
                if (at == sum.size) throw misfit(GRADIENT, "it gives more than the head has")
                sum[at++] += value.toDouble()
            }
        }
        if (at != sum.size) throw misfit(GRADIENT, "it gives less than the head has")
    }

    private fun bindGradient(): Array<Value> {
        val size = rows.toLong()
        val weights = program.bind(rowWeights.buffer, longArrayOf(size, 1))
        val targets = program.bind(rowTargets.buffer, longArrayOf(size, shape.classes.toLong()))
        return arrayOf(batch.labelInput, batch.labelInput, weights, targets) + adapter
    }

    private fun widen(
        values: FloatArray,
        into: DoubleArray,
    ) {
        if (values.size != into.size) throw misfit(HEAD, "it gives ${values.size} losses or counts, not ${into.size}")
        for (row in into.indices) into[row] = values[row].toDouble()
    }

    /**
     * Gathers the hidden states of tokens with a target, headTokens at a time: logits over the vocabulary are never
     * held for more tokens than that, and none are computed for tokens without a target.
     */
    private inner class TokenInputs {
        private val width = shape.hiddenSize
        private val hidden = FloatVector.allocate(shape.headTokens * width)
        private val cursor: FloatBuffer = hidden.buffer.duplicate()
        private val targets = LongCells(shape.headTokens)
        private val chosen = LongArray(shape.headTokens)
        private val rowOf = IntArray(shape.headTokens)
        private val zeros = FloatArray(width)
        private val inputs: Array<Value> =
            arrayOf(
                program.bind(hidden.buffer, longArrayOf(shape.headTokens.toLong(), width.toLong())),
                program.bind(targets.first(shape.headTokens), longArrayOf(shape.headTokens.toLong())),
            ) + adapter

        fun runOn(from: Value) {
            loss.fill(0.0)
            count.fill(0.0)
            correct.fill(0.0)
            val states = from.floats()
            val perRow = batch.labels.size / rows
            var used = 0
            for (cell in batch.labels.indices) {
                if (batch.labels[cell] == NO_TARGET) continue
                place(used, states, cell * width)
                chosen[used] = batch.labels[cell]
                rowOf[used] = cell / perRow
                if (++used == shape.headTokens) used = runTokens(used)
            }
            if (used > 0) runTokens(used)
        }

        /** Runs the first [used] tokens, the rest zeros; none are left then. */
        private fun runTokens(used: Int): Int {
            for (i in used until shape.headTokens) {
                place(i, zeros, 0)
                chosen[i] = 0
            }
            targets.write(chosen, shape.headTokens)
            val outputs = counters.timed(program, HEAD, inputs, shape.segments)
            if (outputs.size != 2) throw misfit(HEAD, "it gives ${outputs.size} tensors, not 2")
            val losses = outputs[0].floats()
            val right = outputs[1].floats()
            if (losses.size != shape.headTokens || right.size != shape.headTokens) {
                throw misfit(HEAD, "it gives losses of ${losses.size} tokens, not ${shape.headTokens}")
            }
            for (i in 0 until used) {
                loss[rowOf[i]] += losses[i].toDouble()
                correct[rowOf[i]] += right[i].toDouble()
                count[rowOf[i]] += 1.0
            }
            return 0
        }

        private fun place(
            index: Int,
            states: FloatArray,
            at: Int,
        ) {
            (cursor as Buffer).position(index * width)
            cursor.put(states, at, width)
        }
    }

    private companion object {
        const val HEAD = "head"
        const val GRADIENT = "head_gradient"
        const val OUTPUTS = 3
    }
}
