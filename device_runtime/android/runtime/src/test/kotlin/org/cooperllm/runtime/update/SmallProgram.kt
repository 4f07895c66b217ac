package org.cooperllm.runtime.update

import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor
import java.nio.Buffer
import java.nio.FloatBuffer
import java.nio.LongBuffer
import kotlin.math.tanh

/**
 * A program of three segments in a few lines, of which a run can fail or do something else on the way.
 *
 * hidden = 0.01 id; segment: hidden = tanh(hidden + mean of its tensor); auxiliary: hidden = hidden + mean;
 * loss = 1 + hidden of the row's first token * mean of the head's tensor.
 *
 * It is as strict as ExecuTorch: an output is what its method gave last, so one that is used late is an error.
 */
internal class SmallProgram(
    hasBranches: Boolean = false,
) : Program {
    var runs = 0
    var failAt = -1
    var unloads = 0

    /** The methods that ran, in order. */
    val ran = mutableListOf<String>()
    var beforeRun: (run: Int) -> Unit = {}

    override val methods: Set<String> =
        setOf("embed", "head") + (0 until SEGMENTS).map { "segment_$it" } +
            if (hasBranches) (0 until SEGMENTS).map { "auxiliary_$it" } else emptyList()

    private val generations = mutableMapOf<String, Int>()

    override fun bind(
        data: FloatBuffer,
        shape: LongArray,
    ): Value = bound(data, shape) { i -> data.get(i) }

    override fun bind(
        data: LongBuffer,
        shape: LongArray,
    ): Value = bound(data, shape) { i -> data.get(i).toFloat() }

    private fun bound(
        data: Buffer,
        shape: LongArray,
        at: (Int) -> Float,
    ): Value {
        require(data.isDirect && data.capacity().toLong() == shape.fold(1L) { product, size -> product * size })
        return SmallValue(shape) { FloatArray(data.capacity()) { at(it) } }
    }

    override fun run(
        method: String,
        inputs: Array<Value>,
    ): Array<Value> {
        beforeRun(runs)
        if (runs++ == failAt) throw ProgramError("the test's program failed")
        ran += method
        val given = inputs.map { it.floats() }
        generations[method] = generations.getOrDefault(method, 0) + 1
        return compute(method, given).map { (shape, values) -> output(method, shape, values) }.toTypedArray()
    }

    private fun output(
        method: String,
        shape: LongArray,
        values: FloatArray,
    ): Value {
        val generation = generations.getValue(method)
        return SmallValue(shape) {
            check(generations[method] == generation) { "$method has run again: its output is another one now" }
            values
        }
    }

    private fun compute(
        method: String,
        given: List<FloatArray>,
    ): List<Pair<LongArray, FloatArray>> {
        val mean = given.last().average()
        val first = given[0]
        val tokens = if (method == "embed") first.size / ROWS else first.size / ROWS / WIDTH
        val shape = longArrayOf(ROWS.toLong(), tokens.toLong(), WIDTH.toLong())
        if (method == "embed") {
            val hidden = FloatArray(first.size * WIDTH) { first[it / WIDTH] * 0.01f }
            return listOf(shape to hidden, longArrayOf(ROWS.toLong(), tokens.toLong()) to given[1])
        }
        if (method != "head") {
            val isSegment = method.startsWith("segment")
            return listOf(shape to FloatArray(first.size) { moved(first[it] + mean.toFloat(), isSegment) })
        }
        val rows = longArrayOf(ROWS.toLong())
        val losses = FloatArray(ROWS) { 1 + first[it * tokens * WIDTH] * mean.toFloat() }
        val logits = longArrayOf(ROWS.toLong(), CLASSES.toLong()) to FloatArray(ROWS * CLASSES)
        return listOf(rows to losses, rows to FloatArray(ROWS) { 1f }, logits)
    }

    private fun moved(
        value: Float,
        isSegment: Boolean,
    ) = if (isSegment) tanh(value) else value

    override fun unload() {
        unloads++
        for (method in generations.keys.toList()) generations[method] = generations.getValue(method) + 1
    }

    override fun close() = Unit

    private class SmallValue(
        private val sizes: LongArray,
        private val values: () -> FloatArray,
    ) : Value {
        override fun shape(): LongArray = sizes.clone()

        override fun floats(): FloatArray = values().clone()
    }

    companion object {
        const val SEGMENTS = 3
        const val ROWS = 2
        const val TOKENS = 4
        const val WIDTH = 8
        const val CLASSES = 3
        private const val WEIGHTS = 200

        /** A core over it, its adapter neither zero nor all the same. */
        fun core(program: Program = SmallProgram()): Core {
            val tensors = List(SEGMENTS + 1) { LayoutTensor("tensor", it, intArrayOf(WEIGHTS), it * WEIGHTS, 20) }
            val core = Core(program, ChainShape(SEGMENTS, ROWS, TOKENS, WIDTH, CLASSES), Layout(tensors))
            core.adapter.write(0, FloatArray(4 * WEIGHTS) { it % 7 * 0.125f }, 4 * WEIGHTS)
            return core
        }

        /** One example a row. */
        fun batch(
            ids: LongArray = LongArray(ROWS * TOKENS) { it + 1L },
            weights: DoubleArray = doubleArrayOf(1.0, 1.0),
        ) = Batch(ids, LongArray(ROWS * TOKENS) { 1 }, longArrayOf(0, 1), weights, TOKENS)
    }
}
