package org.cooperllm.runtime.session

import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.BundleTooLarge
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.bundle.BundlePart
import org.cooperllm.runtime.update.SmallProgram
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** A limit on memory: what fits below it, what is left, and what an app and the cloud are told when nothing fits. */
class MemoryTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `the items add up, and what is left is left`() {
        World(temporary.newFolder()).use { world ->
            val bundle = world.bundle
            val tokens = SmallProgram.ROWS * bundle.manifest.text.maxTokens
            val expected =
                bundle.file(BundlePart.PROGRAM).length() +
                    bundle.manifest.chain.methods
                        .sumOf { it.plannedBytes } +
                    8L * bundle.layout.parameters + 8L * tokens * SmallProgram.WIDTH
            val memory = Memory(bundle)
            assertEquals(expected, memory.neededBytes)
            assertEquals(7L, memory.leftBytes(expected + 7))
            val error = assertThrows(BundleTooLarge::class.java) { memory.leftBytes(expected - 1) }
            val advice = "maxMemoryBytes is ${expected - 1}: allow $expected, or have"
            assertTrue(error.message, advice in error.message.orEmpty())
        }
    }

    @Test
    fun `a bundle that does not fit is told here and to the cloud, and nothing of it is opened`() {
        World(temporary.newFolder(), Limits(maxMemoryBytes = 1000)).use { world ->
            val error = assertThrows(BundleTooLarge::class.java) { world.turn(world.task()) }
            assertTrue("maxMemoryBytes is 1000: allow" in error.message.orEmpty())
            val report = world.cloud.reports.single()
            assertEquals(ReportStatus.REPORT_STATUS_BAD_ARTIFACT, report.status)
            assertTrue(report.detail.startsWith("this bundle takes"))
            val told = listOf("enroll", "check_in", "task", "fetch", "report", "report BAD_ARTIFACT")
            assertEquals(told, world.told())
            assertEquals(0, world.program.runs)
        }
    }

    @Test
    fun `what is left bounds the states that are kept in memory, the others go to a file without a name`() {
        val whole = scalars(Limits())
        val needed = World(temporary.newFolder()).use { Memory(it.bundle).neededBytes }
        for (limits in listOf(Limits(maxStateBytes = 0), Limits(maxMemoryBytes = needed + 100))) {
            val halved = scalars(limits)
            assertTrue(whole.zip(halved).any { (first, second) -> first != second }) // half precision
            assertTrue(whole.zip(halved).all { (first, second) -> Math.abs(first - second) < 1e-2 })
        }
        assertEquals(whole, scalars(Limits(maxMemoryBytes = needed + (1 shl 20))))
    }

    @Test
    fun `limits that make no sense are refused`() {
        assertThrows(OptionError::class.java) { Limits(maxMemoryBytes = 0) }
        assertThrows(OptionError::class.java) { Limits(maxDurationMs = 0) }
        assertThrows(OptionError::class.java) { Limits(maxStateBytes = -1) }
    }

    private fun scalars(limits: Limits): List<Float> {
        val folder = temporary.newFolder()
        return World(folder, limits).use { world ->
            val directions =
                World
                    .directions()
                    .toBuilder()
                    .clearActiveSegments()
                    .addAllActiveSegments(listOf(1, 2))
            world.turn(world.task(directions = directions.build()))
            assertTrue(File(folder, "store").list().orEmpty().none { it.endsWith(".tmp") })
            world.cloud.reports
                .single()
                .scalarsList
        }
    }
}
