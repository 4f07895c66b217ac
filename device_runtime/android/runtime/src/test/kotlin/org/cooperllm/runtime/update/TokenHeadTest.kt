package org.cooperllm.runtime.update

import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

/** Where the targets are tokens: the head takes a few of them at a time, from any rows. */
class TokenHeadTest {
    private val runs = mutableListOf<List<Float>>()

    /** loss = 0.01 * target + the token's first hidden value * mean of the head's tensor; right where the target is even. */
    private val program =
        object : Program by SmallProgram() {
            private val small = SmallProgram()

            override fun run(
                method: String,
                inputs: Array<Value>,
            ): Array<Value> {
                if (method != "head") return small.run(method, inputs)
                val (hidden, targets, tensor) = inputs.map { it.floats() }
                runs += targets.toList()
                val mean = tensor.average().toFloat()
                val losses = FloatArray(AT_ONCE) { 0.01f * targets[it] + hidden[it * SmallProgram.WIDTH] * mean }
                val right = FloatArray(AT_ONCE) { if (targets[it].toInt() % 2 == 0) 1f else 0f }
                return arrayOf(output(losses), output(right))
            }

            private fun output(values: FloatArray) =
                bind(FloatVector.of(values).buffer, longArrayOf(values.size.toLong()))
        }

    private val core = core()
    private val ids = LongArray(8) { it + 1L }

    @Test
    fun `every target counts once, in its row`() {
        val found = core.evaluate(listOf(batch(NONE, 4, 7, 2, 6, NONE, NONE, 9)))
        assertEquals(listOf(listOf(4f, 7f, 2f), listOf(6f, 9f, 0f)), runs)
        assertEquals(5.0, found.count, 0.0)
        assertEquals(3L, found.correct)
        val states = core.hidden(batch(NONE, 4, 7, 2, 6, NONE, NONE, 9), 3)
        val first = FloatArray(64).also { states.read(0, it, 64) }
        val mean = FloatArray(200).also { core.adapter.read(600, it, 200) }.average().toFloat()
        val expected =
            listOf(1 to 4, 2 to 7, 3 to 2, 4 to 6, 7 to 9).sumOf { (cell, target) ->
                (0.01f * target + first[cell * SmallProgram.WIDTH] * mean).toDouble()
            }
        assertEquals(expected, found.lossSum, 1e-6)
    }

    @Test
    fun `rows of weight 0 count nothing`() {
        val labels = longArrayOf(NONE, 4, 7, 2, 6, NONE, NONE, 9)
        val half = Batch(ids, LongArray(8) { 1 }, labels, doubleArrayOf(1.0, 0.0), 4)
        assertEquals(3.0, core.evaluate(listOf(half)).count, 0.0)
    }

    @Test
    fun `directions are measured over the targets`() {
        val batch = batch(NONE, 4, NONE, NONE, NONE, NONE, NONE, 9)
        val measured = core.measure(listOf(batch), listOf(Direction(1)), 1e-3)
        assertEquals(2, runs.size)
        assertEquals((measured.lossPlus[0] - measured.lossMinus[0]) / 2e-3, measured.rho[0], 0.0)
    }

    @Test
    fun `a token outside the vocabulary, or no target at all, is refused`() {
        assertThrows(UnsupportedTask::class.java) { core.evaluate(listOf(batch(NONE, 10, 1, 1, 1, 1, 1, 1))) }
        assertThrows(UnsupportedTask::class.java) { core.evaluate(listOf(batch(*LongArray(8) { NONE }))) }
        assertEquals(0, runs.size)
    }

    private fun batch(vararg labels: Long) = Batch(ids, LongArray(8) { 1 }, labels, doubleArrayOf(1.0, 1.0), 4)

    private fun core(): Core {
        val tensors = List(4) { LayoutTensor("tensor", it, intArrayOf(200), it * 200, 20) }
        val shape = ChainShape(3, 2, 4, SmallProgram.WIDTH, 0, headTokens = AT_ONCE, vocabulary = 10)
        return Core(program, shape, Layout(tensors)).also { core ->
            core.adapter.write(0, FloatArray(800) { it % 7 * 0.125f }, 800)
        }
    }

    private companion object {
        const val AT_ONCE = 3
        const val NONE = NO_TARGET
    }
}
