package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.DirectionBelowGrid
import org.cooperllm.runtime.LayoutMismatch
import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.UnsupportedTask
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.lang.management.ManagementFactory
import java.util.Random

/** What golden files do not hold: several tensors and segments together, refusals, and how much heap it takes. */
class AdapterTest {
    private val layout =
        Layout(
            listOf(
                LayoutTensor("a", 0, intArrayOf(7, 301), 0, 20),
                LayoutTensor("b", 0, intArrayOf(5), 2107, 18),
                LayoutTensor("a", 2, intArrayOf(1500), 2112, 20),
            ),
        )

    @Test
    fun `a perturbation of some segments leaves the others and is restored bit for bit`() {
        val adapter = Adapter(layout, random(1.0))
        val before = adapter.values.toArray()
        val guide = Guide.of(layout, mapOf(2 to FloatVector.of(FloatArray(1500) { it / 1000f })))
        val direction = Direction(5, 1.0, null, listOf(GuideTerm(guide, -0.5)), intArrayOf(2))
        adapter.check(direction, EPSILON)
        adapter.perturb(direction, EPSILON, +1)
        val plus = adapter.values.toArray()
        assertEquals(before.bits().take(2112), plus.bits().take(2112))
        assertTrue(
            before
                .bits()
                .drop(2112)
                .zip(plus.bits().drop(2112))
                .all { (old, new) -> old != new },
        )
        adapter.perturb(direction, EPSILON, -2)
        adapter.perturb(direction, EPSILON, +1)
        assertEquals(before.bits(), adapter.values.toArray().bits())
    }

    @Test
    fun `before the boundary directions share what their prefix seed makes`() {
        val moved =
            listOf(1L, 2L).map { seed ->
                val adapter = Adapter(layout, FloatVector.allocate(layout.parameters))
                adapter.perturb(Direction(seed, boundary = 2, prefixSeed = 9), EPSILON, +1)
                adapter.values.toArray().bits()
            }
        assertEquals(moved[0].take(2112), moved[1].take(2112))
        assertNotEquals(moved[0].drop(2112), moved[1].drop(2112))
    }

    @Test
    fun `a direction below the grid is refused with an epsilon that would do`() {
        val adapter = Adapter(layout, FloatVector.allocate(layout.parameters))
        val direction = Direction(5, 1.0, random(1.0))
        val error = assertThrows(DirectionBelowGrid::class.java) { adapter.check(direction, 1e-7) }
        val enough = error.epsilon ?: error("no epsilon would do")
        assertEquals(Math.scalb(1e-7, error.exponentIncrease ?: 0), enough, 0.0)
        adapter.check(direction, enough)
        assertThrows(DirectionBelowGrid::class.java) { adapter.check(direction, enough / 2) }
        assertEquals("DIRECTION_BELOW_GRID", error.status)
        assertTrue(error.message.orEmpty().contains("use epsilon"))
    }

    @Test
    fun `an update that makes no sense is refused and moves nothing`() {
        val adapter = Adapter(layout, random(1.0))
        val before = adapter.values.toArray().bits()
        val direction = Direction(3)
        for (epsilon in listOf(0.0, -1.0, Double.NaN, Double.POSITIVE_INFINITY)) {
            val update = Update(epsilon, 1, listOf(direction), doubleArrayOf(1.0))
            assertThrows(UnsupportedTask::class.java) { adapter.apply(update) }
        }
        val lacking = Update(EPSILON, 1, listOf(direction), doubleArrayOf())
        assertThrows(UnsupportedTask::class.java) { adapter.apply(lacking) }
        val infinite = Update(EPSILON, 1, listOf(direction), doubleArrayOf(Double.NaN), emptyList(), intArrayOf())
        assertThrows(BadArtifact::class.java) { adapter.apply(infinite) }
        // The last tensor's fault is found before the first one is written.
        val values = FloatVector.of(FloatArray(1500) { if (it == 1499) Float.NaN else 1f })
        val late = Update(EPSILON, 1, emptyList(), doubleArrayOf(), listOf(GuideTerm(guideOf(values), 1.0)))
        assertThrows(BadArtifact::class.java) { adapter.apply(late) }
        assertEquals(before, adapter.values.toArray().bits())
    }

    @Test
    fun `a delta that was altered anywhere, or is for another adapter, changes nothing`() {
        val case = Golden("delta").cases.last()
        val tensors = Golden("layout").cases.last().list("tensors")
        val layout = GoldenLayouts.of(tensors)
        val delta = case.bytes("delta", "uint8")
        val held = FloatVector.of(case.floats("before"))
        val random = Random(7)
        val altered =
            List(200) {
                delta.copyOf().also { bytes ->
                    bytes[random.nextInt(bytes.size)] = random.nextInt().toByte()
                }
            } +
                List(200) { delta.copyOf(random.nextInt(delta.size)) } + listOf(delta + 0)
        for (bytes in altered.filterNot { it.contentEquals(delta) }) {
            assertThrows(BadArtifact::class.java) { AdapterVersion.applyDelta(bytes, held, layout) }
        }
        assertEquals(case.floats("before").bits(), held.toArray().bits())
        AdapterVersion.applyDelta(delta, held, layout)
        assertThrows(BadArtifact::class.java) { AdapterVersion.applyDelta(delta, held, layout) }
    }

    @Test
    fun `layouts with gaps, disorder, overflow or odd entries are refused`() {
        val good = LayoutTensor("a", 0, intArrayOf(2), 0, 20)
        val huge = intArrayOf(1 shl 30)
        for (tensors in listOf<() -> List<LayoutTensor>>(
            { listOf(good, LayoutTensor("b", 0, intArrayOf(2), 3, 20)) },
            { listOf(good, LayoutTensor("a", 0, intArrayOf(2), 2, 20)) },
            { listOf(LayoutTensor("a", 1, intArrayOf(2), 0, 20), LayoutTensor("b", 0, intArrayOf(2), 2, 20)) },
            { listOf(LayoutTensor("a", 0, huge, 0, 20), LayoutTensor("b", 0, huge, 1 shl 30, 20)) },
            { listOf(LayoutTensor("a", 0, intArrayOf(1 shl 16, 1 shl 15), 0, 20)) },
            { listOf(LayoutTensor("a", 0, intArrayOf(-1, -1), 0, 20)) },
            { listOf(LayoutTensor("a\n", 0, intArrayOf(2), 0, 20)) },
            { listOf(LayoutTensor("", 0, intArrayOf(2), 0, 20)) },
            { listOf(LayoutTensor("a", -1, intArrayOf(2), 0, 20)) },
            { listOf(LayoutTensor("a", 0, intArrayOf(2), 0, 101)) },
        )) {
            assertThrows(LayoutMismatch::class.java) { Layout(tensors()) }
        }
        // By code points U+FFFD comes before U+1F600; by UTF-16 units it would come after.
        val names = listOf("\uFFFD", "\uD83D\uDE00")
        Layout(names.mapIndexed { offset, name -> LayoutTensor(name, 0, intArrayOf(), offset, 20) })
    }

    @Test
    fun `the projected gradient is the difference over two epsilon`() {
        assertEquals(0.75, Adapter.projectedGradient(2.5, 1.0, 1.0), 0.0)
        assertThrows(LossNotFinite::class.java) { Adapter.projectedGradient(Double.NaN, 1.0, 1.0) }
    }

    @Test
    fun `the heap that a perturbation and an update take does not grow with the adapter`() {
        val taken = listOf(20_000, 2_000_000).map(::heapOfOneStep)
        assertTrue("$taken", taken.all { it < 2000 })
    }

    private fun heapOfOneStep(parameters: Int): Long {
        val layout = Layout(listOf(LayoutTensor("w", 0, intArrayOf(parameters), 0, 20)))
        val adapter = Adapter(layout, FloatVector.allocate(parameters))
        val direction = Direction(7, 1.0, FloatVector.of(FloatArray(parameters) { 1f }))
        val update = Update(EPSILON, 9, listOf(direction), doubleArrayOf(1e-6))
        val threads = ManagementFactory.getThreadMXBean() as com.sun.management.ThreadMXBean
        var least = Long.MAX_VALUE
        repeat(3) {
            val before = threads.currentThreadAllocatedBytes
            adapter.check(direction, EPSILON)
            adapter.perturb(direction, EPSILON, +1)
            adapter.apply(update)
            least = minOf(least, threads.currentThreadAllocatedBytes - before)
        }
        return least
    }

    private fun guideOf(values: FloatVector): Guide = Guide.of(layout, mapOf(2 to values))

    private fun random(spread: Double): FloatVector {
        val random = Random(3)
        val values = FloatArray(layout.parameters) { (random.nextDouble() * spread).toFloat() + 0.01f }
        Grid.round(values, 18)
        return FloatVector.of(values)
    }

    private companion object {
        const val EPSILON = 1e-3
    }
}
