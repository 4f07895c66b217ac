package org.cooperllm.runtime.session

import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Report
import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit

/** Directions measured while their guides arrive: the scalars of whole guides, sooner, and never without the budget. */
class FeedTest : InAWorld() {
    private val small: SmallGuides by lazy { SmallGuides(world.bundle.layout) }
    private val inTurn: DirectionsTask get() =
        small
            .task()
            .toBuilder()
            .setInTurn(true)
            .build()

    private fun report(
        round: Long,
        task: DirectionsTask,
    ): Report {
        world.turn(world.task(round, world.version(isHeld = round > 1), task))
        return world.cloud.reports.last()
    }

    @Test
    fun `scalars are those of guides that were whole before anything ran, bit for bit`() {
        world.cloud.chunks += small.chunks()
        val streamed = report(1, small.task())
        val whole = report(2, inTurn)
        assertEquals(ReportStatus.REPORT_STATUS_OK, streamed.status)
        assertEquals(whole.scalarsList.map { it.toRawBits() }, streamed.scalarsList.map { it.toRawBits() })
        assertEquals(4, streamed.scalarsList.distinct().size)
        val spans = streamed.timing.spansList.filter { it.hasSegment() }
        assertEquals(setOf("guide_arrived", "perturb", "run"), spans.map { it.name }.toSet())
        assertEquals(listOf(0, 1, 2), spans.filter { it.name == "run" }.map { it.segment })
        assertTrue(whole.timing.spansList.none { it.hasSegment() })
        assertEquals(world.store.state.disclosed["1"], world.store.state.disclosed["2"])
    }

    /** Opened when segment 0 has run for the first time. */
    private fun whenSegment0Ran(): CountDownLatch {
        val ran = CountDownLatch(1)
        world.openProgram = {
            object : Program by world.program {
                override fun run(
                    method: String,
                    inputs: Array<Value>,
                ): Array<Value> = world.program.run(method, inputs).also { if (method == "segment_0") ran.countDown() }
            }
        }
        return ran
    }

    @Test
    fun `a segment has run before the next one has left the cloud, and predictions may run in between`() {
        val ran = whenSegment0Ran()
        world.cloud.chunks += small.chunks()
        var isInTime = true
        var predicted = 0
        world.cloud.alter = {
            if (it.segment == 1 && predicted == 0) {
                isInTime = ran.await(MOST_S, TimeUnit.SECONDS)
                val predict = suspend { world.session.learned.predict(listOf("w1 w2"), usePersonal = false) }
                predicted = runBlocking { withTimeout(MOST_S * 1000) { predict() } }.size
            }
            it
        }
        val streamed = report(1, small.task())
        assertTrue(isInTime)
        assertEquals(1, predicted)
        assertEquals(report(2, inTurn).scalarsList, streamed.scalarsList)
    }

    @Test
    fun `a stream that ends too early ends the turn, and the next one measures the same`() {
        world.cloud.chunks += small.chunks()
        world.cloud.alter = { if (it.segment == 1) throw ServerUnreachable("gone") else it }
        assertThrows(ServerUnreachable::class.java) { world.turn(world.task(directions = small.task())) }
        assertEquals(emptyList<Double>(), world.store.progress.of("task-1"))
        world.start()
        world.cloud.alter = { it }
        world.turn(world.task(update = world.version(isHeld = true), directions = small.task()))
        val resumed = world.cloud.reports.single()
        assertEquals(report(2, inTurn).scalarsList, resumed.scalarsList)
        assertEquals(2, world.cloud.starts.size) // from segment 0, and from segment 1
    }

    @Test
    fun `whoever stops need not wait for a segment`() {
        world.cloud.chunks += small.chunks()
        val never = CountDownLatch(1)
        world.cloud.alter = {
            if (it.segment == 1 && world.goOn()) {
                world.goOn = { false }
                never.await(STOPPED_MS, TimeUnit.MILLISECONDS)
            }
            it
        }
        assertThrows(Stopped::class.java) { world.turn(world.task(directions = small.task())) }
        assertEquals(emptyList<Double>(), world.store.progress.of("task-1"))
    }

    @Test
    fun `nothing leaves, or is kept, of a task that turns out to be beyond the budget`() {
        World(temporary.newFolder(), budget = Budget(64, maxHeadScalarsPerRound = 3)).use { world ->
            world.cloud.chunks += small.chunks()
            val silent = small.task().toBuilder() // along guides alone: each counts as one of the head's
            val step = silent.getSteps(0).toBuilder()
            step.setDirections(0, step.getDirections(0).toBuilder().setIsotropicScale(0.0))
            world.turn(world.task(directions = silent.setSteps(0, step).build()))
            val refused = world.cloud.reports.single()
            assertEquals(refused.detail, ReportStatus.REPORT_STATUS_REFUSED_DISCLOSURE_BUDGET, refused.status)
            assertTrue(refused.detail, "4 scalars in the head alone" in refused.detail)
            assertEquals(0, refused.scalarsCount)
            assertTrue(world.program.runs > 0) // what guides make of directions is known when they have passed
            assertTrue(
                world.store.state.disclosed
                    .isEmpty(),
            )
            assertEquals(emptyList<Double>(), world.store.progress.of("task-1"))
        }
    }

    private companion object {
        const val MOST_S = 20L
        const val STOPPED_MS = 400L
    }
}
