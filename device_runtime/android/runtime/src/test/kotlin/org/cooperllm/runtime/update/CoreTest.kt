package org.cooperllm.runtime.update

import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.DirectionBelowGrid
import org.cooperllm.runtime.DirectionOutOfRange
import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Update
import org.cooperllm.runtime.zo.bits
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The core on a small program of its own: what runs, what is restored, what is refused. */
class CoreTest {
    private val program = SmallProgram()
    private val core = SmallProgram.core(program)
    private val before = core.adapter.toArray().bits()
    private val batches = listOf(SmallProgram.batch(), SmallProgram.batch(LongArray(8) { 9L - it }))
    private val directions = List(3) { Direction(it.toLong(), activeSegments = intArrayOf(1, 2, 3)) }

    @Test
    fun `one prefix and 2q suffixes a batch, and the adapter restored`() {
        val rho = measure()
        assertEquals(
            listOf(2L, 12L, 12L, 12L),
            core.chain.counters.segmentRuns
                .toList(),
        )
        assertEquals(2L, core.chain.counters.embedRuns)
        assertEquals(before, core.adapter.toArray().bits())
        assertTrue(rho.all { it != 0.0 } && rho.distinct().size == 3)
        assertEquals(rho, measure())
    }

    @Test
    fun `a failure of any run restores the adapter`() {
        val rho = measure()
        for (run in 0 until program.runs) {
            program.failAt = run
            program.runs = 0
            assertThrows(ProgramError::class.java) { measure() }
            assertEquals(before, core.adapter.toArray().bits())
        }
        program.failAt = -1
        assertEquals(rho, measure())
    }

    @Test
    fun `a stop during any run ends with it and restores the adapter`() {
        val rho = measure()
        val total = program.runs
        for (last in 0 until total - 1) {
            program.beforeRun = { if (it == last) core.stop() }
            program.runs = 0
            assertThrows(Stopped::class.java) { measure() }
            assertEquals(last + 1, program.runs)
            assertThrows(Stopped::class.java) { core.evaluate(batches) }
            assertEquals(before, core.adapter.toArray().bits())
            core.resume()
        }
        program.beforeRun = {}
        assertEquals(rho, measure())
    }

    @Test
    fun `a kept state gives the same as the whole chain, without what is before it`() {
        val rho = measure()
        val kept = batches.map { it.entering(1, core.hidden(it, 1)) }
        core.chain.counters.reset()
        assertEquals(rho, core.measure(kept, directions, EPSILON).rho.toList())
        assertEquals(
            listOf(0L, 12L, 12L, 12L),
            core.chain.counters.segmentRuns
                .toList(),
        )
        val late = batches.map { it.entering(2, core.hidden(it, 2)) }
        assertThrows(UnsupportedTask::class.java) { core.measure(late, directions, EPSILON) }
    }

    @Test
    fun `rows of weight 0 count nothing, whatever their loss`() {
        val ids = LongArray(8) { if (it < 4) it + 1L else Long.MAX_VALUE }
        val padded = SmallProgram.batch(ids, doubleArrayOf(1.0, 0.0))
        assertEquals(1.0, core.evaluate(listOf(padded)).count, 0.0)
        assertNotEquals(core.evaluate(listOf(padded)).lossSum, core.evaluate(batches).lossSum, 1e-9)
    }

    @Test
    fun `ChainFed's loss is the local one and the branch's, weighted`() {
        val program = SmallProgram(hasBranches = true)
        val core = SmallProgram.core(program)
        val local = core.evaluate(batches, Objective(1)).lossSum
        val blended = core.evaluate(batches, Objective(1, 0.25)).lossSum
        assertEquals(
            listOf(0L, 2L, 2L),
            core.chain.counters.auxiliaryRuns
                .toList(),
        )
        val twice = core.evaluate(batches, Objective(1, 0.5)).lossSum
        assertEquals(2 * (blended - local), twice - local, 1e-12)
        assertEquals(0.25 * branchLoss(core), blended - local, 1e-5)
        val moving = List(2) { Direction(it.toLong(), activeSegments = intArrayOf(0, 3)) }
        core.chain.counters.reset()
        core.measure(batches, moving, EPSILON, Objective(1, 0.5))
        assertEquals(
            listOf(8L, 0L, 0L, 16L),
            core.chain.counters.segmentRuns
                .toList(),
        )
        assertEquals(
            listOf(0L, 8L, 8L),
            core.chain.counters.auxiliaryRuns
                .toList(),
        )
    }

    private fun branchLoss(core: Core): Double {
        val values = core.adapter.toArray()
        val means = List(4) { segment -> values.slice(200 * segment until 200 * segment + 200).average() }
        return batches.sumOf { batch ->
            val state = core.hidden(batch, 1).toArray()
            listOf(0, 32).sumOf { 1 + (state[it] + means[1] + means[2]) * means[3] }
        }
    }

    @Test
    fun `a loss that is not finite is an error, with the adapter restored`() {
        core.adapter.write(600, FloatArray(1) { Float.POSITIVE_INFINITY }, 1)
        val changed = core.adapter.toArray().bits()
        val first = listOf(Direction(1, activeSegments = intArrayOf(0)))
        assertThrows(LossNotFinite::class.java) { core.measure(batches, first, EPSILON) }
        assertEquals(changed, core.adapter.toArray().bits())
    }

    @Test
    fun `a step moves the active segments, and one that is refused moves nothing`() {
        val update = Update(EPSILON, 7, directions, doubleArrayOf(1.0, 2.0, 3.0), activeSegments = intArrayOf(2, 3))
        assertEquals(0, core.update(update))
        assertEquals(
            before.take(400),
            core.adapter
                .toArray()
                .bits()
                .take(400),
        )
        assertNotEquals(before, core.adapter.toArray().bits())
        val moved = core.adapter.toArray().bits()
        val infinite = Update(EPSILON, 7, directions, doubleArrayOf(1.0, 2.0, Double.POSITIVE_INFINITY))
        assertThrows(BadArtifact::class.java) { core.update(infinite) }
        assertEquals(moved, core.adapter.toArray().bits())
    }

    @Test
    fun `refuses before anything runs`() {
        val wrong = UnsupportedTask::class.java
        assertThrows(wrong) { core.measure(emptyList(), directions, EPSILON) }
        assertThrows(wrong) { core.measure(listOf(SmallProgram.batch(weights = DoubleArray(2))), directions, EPSILON) }
        assertThrows(wrong) { core.measure(batches, directions, -1.0) }
        assertThrows(wrong) { core.measure(batches, directions, EPSILON, Objective(4)) }
        assertThrows(wrong) { core.measure(batches, directions, EPSILON, Objective(1)) }
        assertThrows(wrong) { core.measure(batches, directions, EPSILON, Objective(0, 0.5)) }
        assertThrows(wrong) { core.slopes(batches, directions, EPSILON) }
        val stranger = Batch(LongArray(8), LongArray(8), longArrayOf(0, 3), DoubleArray(2) { 1.0 }, 4)
        assertThrows(wrong) { core.evaluate(listOf(stranger)) }
        assertThrows(DirectionOutOfRange::class.java) { core.measure(batches, directions, 100.0) }
        val scaled = Direction(1, scale = FloatVector.of(FloatArray(800) { Float.NaN }))
        assertThrows(BadArtifact::class.java) { core.measure(batches, listOf(scaled), EPSILON) }
        assertEquals(0, program.runs)
    }

    @Test
    fun `names the epsilon with which a direction survives the grid`() {
        val narrow = listOf(Direction(1, isotropicScale = 1.37))
        val refused = assertThrows(DirectionBelowGrid::class.java) { core.measure(batches, narrow, 1e-6) }
        val enough = checkNotNull(refused.epsilon)
        core.measure(batches, narrow, enough)
        assertThrows(DirectionBelowGrid::class.java) { core.measure(batches, narrow, enough / 2) }
        assertEquals(enough, Math.scalb(1e-6, checkNotNull(refused.exponentIncrease)), 0.0)
    }

    @Test
    fun `a program without the manifest's methods is refused`() {
        val lacking =
            object : org.cooperllm.runtime.program.Program by SmallProgram() {
                override val methods = setOf("embed", "head")
            }
        assertThrows(ProgramError::class.java) { SmallProgram.core(lacking) }
    }

    @Test
    fun `logits are those of the head`() = assertArrayEquals(FloatArray(6), core.logits(batches[0]), 0f)

    private fun measure(): List<Double> = core.measure(batches, directions, EPSILON).rho.toList()

    private companion object {
        const val EPSILON = 1e-3
    }
}
