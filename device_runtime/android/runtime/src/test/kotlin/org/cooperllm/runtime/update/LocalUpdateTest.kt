package org.cooperllm.runtime.update

import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.bits
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class LocalUpdateTest {
    private val core = SmallProgram.core()
    private val before = core.adapter.toArray().bits()

    /** What device_runtime/local_update.py draws. */
    @Test
    fun `a batch is drawn as on every other device`() {
        assertArrayEquals(DRAWN_8_OF_20, LocalUpdate.drawBatch(5, 8, 20))
        assertArrayEquals(DRAWN_3_OF_7, LocalUpdate.drawBatch(-1, 3, 7))
        assertArrayEquals(DRAWN_4_OF_4, LocalUpdate.drawBatch(1, 9, 4))
        assertArrayEquals(IntArray(0), LocalUpdate.drawBatch(0, 3, 0))
    }

    @Test
    fun `a scalar leaves clipped, then noised, then as float32`() {
        assertEquals(0.1f.toDouble(), LocalUpdate.wireForm(0.1, ScalarForm()) { 1.0 }, 0.0)
        assertEquals(-0.5, LocalUpdate.wireForm(-3.0, ScalarForm(clip = 0.5)) { 1.0 }, 0.0)
        assertEquals(2.5, LocalUpdate.wireForm(3.0, ScalarForm(0.5, 2.0)) { 1.0 }, 0.0)
        assertThrows(LossNotFinite::class.java) { LocalUpdate.wireForm(1e300, ScalarForm()) { 0.0 } }
    }

    @Test
    fun `steps move the adapter for those after them, and all of it is taken back`() {
        val moving = run(task(rate = 0.5))
        assertEquals(before, core.adapter.toArray().bits())
        val still = run(task(rate = 0.0))
        assertEquals(still.scalars.take(DIRECTIONS), moving.scalars.take(DIRECTIONS))
        assertNotEquals(still.scalars.drop(DIRECTIONS), moving.scalars.drop(DIRECTIONS))
        assertEquals(2 * DIRECTIONS, moving.scalars.size)
        assertTrue(moving.examples in 4..8)
    }

    @Test
    fun `work that was suspended after any group goes on to the same scalars`() {
        val whole = run(task(rate = 0.5)).scalars
        var kept = 0
        while (true) {
            val done = mutableListOf<Double>()
            var groups = 0
            val most = kept++
            var nowNs = 0L // every group is one direction
            val clock = { nowNs.also { nowNs += SLOW_NS } }
            val between = Between(keep = { done += it }, goOn = { groups++ < most }, clockNs = clock)
            val ended = runCatching { LocalUpdate(core, { 0.0 }, between).run(task(rate = 0.5), examples) }
            assertEquals(before, core.adapter.toArray().bits())
            if (ended.isSuccess) break
            assertTrue(ended.exceptionOrNull() is Stopped)
            assertEquals(whole, LocalUpdate(core, { 0.0 }).run(task(rate = 0.5), examples, done).scalars)
        }
        assertEquals(2 * DIRECTIONS, kept)
    }

    @Test
    fun `groups cost no segment run`() {
        var nowNs = 0L
        val slow = Between(clockNs = { nowNs.also { nowNs += SLOW_NS } }) // every group is one direction
        run(task(rate = 0.0), slow)
        val runs =
            core.chain.counters.segmentRuns
                .toList()
        assertEquals(listOf(4L, 32L, 32L, 32L), runs)
    }

    @Test
    fun `directions that share a block stay together`() {
        var nowNs = 0L
        val slow = Between(clockNs = { nowNs.also { nowNs += SLOW_NS } })
        val blocks = List(4) { Direction(40L + it, activeSegments = ALL, boundary = 2, prefixSeed = 40L + it - it % 2) }
        run(task(rate = 0.0, directions = blocks), slow)
        // Two steps of two batches: P1 = 2 before the boundary, P1 P2 = 4 behind it, both signs.
        assertEquals(
            listOf(16L, 16L, 32L, 32L),
            core.chain.counters.segmentRuns
                .toList(),
        )
    }

    @Test
    fun `a task that makes no sense is refused before anything runs`() {
        val wrong = UnsupportedTask::class.java
        assertThrows(wrong) { run(DirectionsTask(0.0, ALL, emptyList())) }
        assertThrows(wrong) { run(DirectionsTask(EPSILON, IntArray(0), emptyList())) }
        assertThrows(wrong) { run(DirectionsTask(EPSILON, intArrayOf(2, 1), emptyList())) }
        assertThrows(wrong) { run(task(rate = Double.NaN)) }
        assertEquals(0L, core.chain.counters.embedRuns)
    }

    @Test
    fun `an evaluation counts every held-out example once`() {
        val found = LocalUpdate.evaluate(core, examples)
        assertEquals(EXAMPLES.toDouble(), found.count, 0.0)
        assertEquals(EXAMPLES / 2L, found.correct)
    }

    private fun run(
        task: DirectionsTask,
        between: Between = Between(),
    ) = LocalUpdate(core, { 0.0 }, between).run(task, examples)

    private fun task(
        rate: Double,
        directions: List<Direction> = List(DIRECTIONS) { Direction(it.toLong(), activeSegments = intArrayOf(1, 2, 3)) },
    ): DirectionsTask {
        val steps = List(2) { Step(it.toLong(), 4, directions.map { d -> TaskDirection(d) }, rate, 9L + it) }
        return DirectionsTask(EPSILON, ALL, steps)
    }

    private val examples =
        object : Examples {
            override val count = EXAMPLES

            override fun batches(chosen: IntArray): List<Batch> =
                chosen.toList().chunked(SmallProgram.ROWS).map { rows ->
                    val cells = SmallProgram.ROWS * SmallProgram.TOKENS
                    val ids = LongArray(cells) { rows.getOrElse(it / SmallProgram.TOKENS) { 0 } + it + 1L }
                    val weights = DoubleArray(SmallProgram.ROWS) { if (it < rows.size) 1.0 else 0.0 }
                    SmallProgram.batch(ids, weights)
                }
        }

    private companion object {
        const val EPSILON = 1e-3
        const val DIRECTIONS = 4
        const val SLOW_NS = 1_000_000_000L
        const val EXAMPLES = 20
        val ALL = intArrayOf(0, 1, 2, 3)
        val DRAWN_8_OF_20 = intArrayOf(5, 14, 7, 1, 0, 10, 12, 2)
        val DRAWN_3_OF_7 = intArrayOf(5, 4, 0)
        val DRAWN_4_OF_4 = intArrayOf(1, 3, 0, 2)
    }
}
