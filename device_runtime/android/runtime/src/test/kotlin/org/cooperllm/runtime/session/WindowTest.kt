package org.cooperllm.runtime.session

import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.update.SmallProgram
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** Tasks with a window: which segments run and are in memory, and how long hidden states are kept. */
class WindowTest : InAWorld() {
    private var rounds = 0L

    @Test
    fun `what is outside a window is not loaded`() {
        assertEquals(listOf(BOTH_SIGNS, 0, BOTH_SIGNS), runs(listOf(0, HEAD), exit = 1))
        assertEquals(setOf("embed", "segment_0", "head"), loaded())
        assertFalse("segment_1" in world.program.ran)
        val moved = runs(listOf(1, HEAD), exit = 2)
        assertTrue(moved[0] in 1..8) // the groups that the batch's examples are in
        assertEquals(listOf(BOTH_SIGNS, BOTH_SIGNS), moved.drop(1))
        assertEquals(setOf("embed", "segment_1", "head"), loaded())
        assertEquals(listOf(0, BOTH_SIGNS, BOTH_SIGNS), runs(listOf(1, HEAD), exit = 2))
        assertEquals(listOf(BOTH_SIGNS, BOTH_SIGNS, BOTH_SIGNS), runs(listOf(0, 1, HEAD)))
        assertEquals(setOf("embed", "segment_0", "segment_1", "head"), loaded())
        runs(listOf(0, HEAD), exit = 1)
        assertEquals(setOf("embed", "segment_0", "head"), loaded())
    }

    @Test
    fun `the head alone costs heads from its second round on`() {
        val first = runs(listOf(HEAD))
        assertTrue(first.take(HEAD).all { it in 1..8 })
        assertEquals(setOf("head"), loaded())
        assertEquals(listOf(0, 0, BOTH_SIGNS), runs(listOf(HEAD)))
        assertTrue(runs(listOf(HEAD), batchSeed = 6)[0] in 1..8) // other examples
    }

    @Test
    fun `one frozen segment is loaded at a time`() {
        val loaded = mutableListOf<Int>()
        world.program.beforeRun = { loaded += (loaded() - setOf("embed", "head")).size }
        runs(listOf(HEAD))
        assertEquals(1, loaded.maxOrNull())
    }

    @Test
    fun `kept states change no scalar, and follow the adapter before them`() {
        val fresh = scalars(listOf(1, HEAD))
        assertEquals(fresh, scalars(listOf(1, HEAD)))
        world.start()
        assertEquals(fresh, scalars(listOf(1, HEAD)))
        val core = checkNotNull(world.holdings.engine).core
        val private = checkNotNull(world.session.examples.known)

        fun state(): FloatArray? =
            private
                .trainFrom(1, core)
                .batches(intArrayOf(0))[0]
                .hidden
                ?.toArray()
        val before = state()
        val moved = FloatArray(core.chain.layout.segmentCount(0)) { core.adapter.toArray()[it] + 0.25f }
        core.adapter.write(0, moved, moved.size)
        val after = state()
        assertTrue(before != null && after != null)
        assertFalse(before.contentEquals(after))
    }

    @Test
    fun `a whole chain lets go of the states, and so does the end of the session`() {
        runs(listOf(HEAD))
        runs(listOf(0, HEAD))
        assertTrue(runs(listOf(HEAD))[0] > 0)
        world.session.forgetExamples()
        assertTrue(runs(listOf(HEAD))[0] > 0)
    }

    @Test
    fun `an evaluation starts where the training examples' states are`() {
        runs(listOf(HEAD))
        val heldOut = world.examples.count { PrivateExamples.isHeldOut(it.text) }
        val batches = (heldOut + SmallProgram.ROWS - 1) / SmallProgram.ROWS
        assertEquals(listOf(batches, batches, batches), evaluation())
        assertEquals(setOf("head"), loaded())
        assertEquals(listOf(0, 0, batches), evaluation())
    }

    private fun evaluation(): List<Int> =
        counted {
            world.turn(
                world.evaluation(
                    ++rounds,
                    world.version(
                        isHeld =
                            rounds > 1,
                    ),
                ),
            )
        }

    /** The runs of every segment, the head's last, that a task takes. */
    private fun runs(
        active: List<Int>,
        exit: Int = 0,
        batchSeed: Long = 5,
    ): List<Int> =
        counted {
            val directions = window(active, exit, batchSeed)
            world.turn(world.task(++rounds, world.version(isHeld = rounds > 1), directions))
        }

    private fun counted(turn: () -> Unit): List<Int> {
        world.program.ran.clear()
        turn()
        val report = world.cloud.reports.last()
        assertEquals(report.detail, ReportStatus.REPORT_STATUS_OK, report.status)
        return (0 until HEAD).map { segment -> world.program.ran.count { it == "segment_$segment" } } +
            world.program.ran.count { it == "head" }
    }

    private fun scalars(active: List<Int>): List<Float> {
        runs(active)
        return world.cloud.reports
            .last()
            .scalarsList
    }

    private fun loaded(): Set<String> =
        world.holdings.engine
            ?.core
            ?.chain
            ?.loadedMethods
            .orEmpty()
            .toSet()

    private fun window(
        active: List<Int>,
        exit: Int,
        batchSeed: Long,
    ): DirectionsTask {
        val task =
            World
                .directions()
                .toBuilder()
                .clearActiveSegments()
                .addAllActiveSegments(
                    active,
                ).setExitSegment(exit)
        task.setSteps(0, task.getSteps(0).toBuilder().setBatchSeed(batchSeed))
        return task.build()
    }

    private companion object {
        const val HEAD = 2

        /** Eight examples, two a batch; four directions, both signs. */
        const val BOTH_SIGNS = 4 * 2 * 4
    }
}
