package org.cooperllm.runtime.update

import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.DirectionBelowGrid
import org.cooperllm.runtime.DirectionOutOfRange
import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Guide
import org.cooperllm.runtime.zo.GuideTerm
import org.cooperllm.runtime.zo.bits
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.random.Random

/** Streaming order against the whole measurement: the same bits, with guides held a segment at a time. */
class StreamedMeasureTest {
    private val program = SmallProgram(hasBranches = true)
    private val core = SmallProgram.core(program)
    private val layout = core.chain.layout
    private val before = core.adapter.toArray().bits()
    private val batches = listOf(SmallProgram.batch(), SmallProgram.batch(LongArray(8) { 9L - it }))
    private val slices = List(2) { guide -> (0..3).associateWith { values(10 * guide + it) } }

    private fun values(seed: Int): FloatVector {
        val random = Random(seed)
        return FloatVector.of(FloatArray(layout.segmentCount(0)) { random.nextFloat() - 0.5f })
    }

    private fun directions(
        guides: List<Guide>,
        boundary: Int = 0,
        active: IntArray? = null,
    ) = List(4) { number ->
        val terms = guides.mapIndexed { j, guide -> GuideTerm(guide, 0.5 + j) }
        Direction(number.toLong(), 1.0, null, terms, active, boundary, prefixSeed = 70L + number / 2)
    }

    /** As a device does it; others use the program between two segments. */
    private fun streamed(
        on: List<Batch>,
        objective: Objective,
        directionsOf: (List<Guide>) -> List<Direction>,
    ): Measurement {
        val guides = slices.map { Guide() }
        val measurement = core.begin(on, directionsOf(guides), EPSILON, objective)
        for (segment in measurement.segments) {
            guides.forEachIndexed { j, guide -> guide.hold(layout, segment, slices[j].getValue(segment)) }
            measurement.advance()
            for (guide in guides) {
                assertTrue(guide.heldBytes == 4L * layout.segmentCount(segment))
                guide.drop(segment)
            }
            assertEquals(before, core.adapter.toArray().bits())
            core.evaluate(listOf(SmallProgram.batch(LongArray(8) { 3L })))
        }
        return measurement.finish()
    }

    private fun assertSame(
        on: List<Batch>,
        objective: Objective,
        directionsOf: (List<Guide>) -> List<Direction>,
    ) {
        val expected = core.measure(on, directionsOf(slices.map { Guide.of(layout, it) }), EPSILON, objective)
        val found = streamed(on, objective, directionsOf)
        assertEquals(expected.rho.bits(), found.rho.bits())
        assertEquals(expected.lossPlus.bits(), found.lossPlus.bits())
        assertEquals(expected.lossMinus.bits(), found.lossMinus.bits())
        assertTrue(found.rho.distinct().size == 4)
    }

    @Test
    fun `whole chain, prefixes, windows, branches and kept states give the bits of the whole measurement`() {
        assertSame(batches, Objective()) { directions(it) }
        assertSame(batches, Objective()) { directions(it, boundary = 2) }
        assertSame(batches, Objective(2)) { directions(it, active = intArrayOf(0, 1, 3)) }
        assertSame(batches, Objective(2, 0.5)) { directions(it, active = intArrayOf(1, 3)) }
        val kept = batches.map { it.entering(1, core.hidden(it, 1)) }
        assertSame(kept, Objective()) { directions(it, active = intArrayOf(1, 2, 3)) }
        assertSame(listOf(batches[0], kept[1]), Objective()) { directions(it, active = intArrayOf(2, 3)) }
        val late = batches.map { it.entering(2, core.hidden(it, 2)) }
        assertSame(late, Objective(2)) { directions(it, active = intArrayOf(3)) }
    }

    @Test
    fun `no segment runs more often than in the whole measurement`() {
        val whole = slices.map { Guide.of(layout, it) }
        core.chain.counters.reset()
        core.measure(batches, directions(whole, boundary = 2), EPSILON)
        val expected =
            core.chain.counters.segmentRuns
                .toList()
        core.chain.counters.reset()
        val measurement = core.begin(batches, directions(whole, boundary = 2), EPSILON)
        for (segment in measurement.segments) measurement.advance()
        assertEquals(
            expected,
            core.chain.counters.segmentRuns
                .toList(),
        )
    }

    @Test
    fun `memory of states is used again until it is let go of`() {
        val memory = SlotMemory()
        memory.slot(1, 8).write(0, FloatArray(8) { 5f }, 8)
        assertEquals(FloatArray(4) { 5f }.bits(), memory.slot(1, 4).toArray().bits())
        assertEquals(0f, memory.slot(0, 4).toArray()[0], 0f)
        memory.release()
        assertEquals(0f, memory.slot(1, 4).toArray()[0], 0f)
    }

    @Test
    fun `a failure or a stop of any run restores the adapter`() {
        val whole = slices.map { Guide.of(layout, it) }
        program.runs = 0
        val last = core.begin(batches, directions(whole), EPSILON)
        for (segment in last.segments) last.advance()
        val total = program.runs
        for (run in 0 until total) {
            program.runs = 0
            program.failAt = run
            assertThrows(ProgramError::class.java) { run(whole) }
            program.failAt = -1
            assertEquals(before, core.adapter.toArray().bits())
            if (run == total - 1) continue
            program.runs = 0
            program.beforeRun = { if (it == run) core.stop() }
            assertThrows(Stopped::class.java) { run(whole) }
            assertEquals(before, core.adapter.toArray().bits())
            core.resume()
            program.beforeRun = {}
        }
    }

    private fun run(guides: List<Guide>) {
        val measurement = core.begin(batches, directions(guides), EPSILON)
        for (segment in measurement.segments) measurement.advance()
    }

    @Test
    fun `what cannot be measured is refused, before the first add of its segment`() {
        val wrong = UnsupportedTask::class.java
        assertThrows(wrong) { core.begin(emptyList(), directions(emptyList()), EPSILON) }
        assertThrows(wrong) { core.begin(batches, emptyList(), EPSILON) }
        assertThrows(wrong) { core.begin(batches, directions(emptyList()), -1.0) }
        assertThrows(wrong) { core.begin(batches, listOf(Direction(1, Double.NaN)), EPSILON) }
        assertThrows(wrong) { core.begin(batches, directions(emptyList()), EPSILON, Objective(1)) }
        val bad = Guide()
        val infinite = core.begin(batches, directions(listOf(bad)), EPSILON)
        bad.hold(layout, 0, FloatVector.of(FloatArray(layout.segmentCount(0)) { Float.POSITIVE_INFINITY }))
        assertThrows(BadArtifact::class.java) { infinite.advance() }
        bad.hold(layout, 0, FloatVector.of(FloatArray(layout.segmentCount(0)) { 1e30f }))
        val large = core.begin(batches, directions(listOf(bad)), EPSILON)
        assertThrows(DirectionOutOfRange::class.java) { large.advance() }
        assertEquals(before, core.adapter.toArray().bits())
    }

    @Test
    fun `a direction that drowns in the grid is told at the end, with an epsilon that does`() {
        val narrow = listOf(Direction(1, isotropicScale = 1.37))
        val refused = assertThrows(DirectionBelowGrid::class.java) { finish(narrow, 1e-6) }
        val enough = checkNotNull(refused.epsilon)
        finish(narrow, enough)
        core.measure(batches, narrow, enough)
        assertThrows(DirectionBelowGrid::class.java) { core.measure(batches, narrow, 1e-6) }
    }

    private fun finish(
        directions: List<Direction>,
        epsilon: Double,
    ): Measurement {
        val measurement = core.begin(batches, directions, epsilon)
        for (segment in measurement.segments) measurement.advance()
        return measurement.finish()
    }

    private companion object {
        const val EPSILON = 1e-3
    }
}
