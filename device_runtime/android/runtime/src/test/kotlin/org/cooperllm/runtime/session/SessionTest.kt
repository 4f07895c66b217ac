package org.cooperllm.runtime.session

import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.Finished
import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.TaskLost
import org.cooperllm.runtime.zo.AdapterVersion
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The session's phases in order, what it says to the cloud, what it refuses, and what an end in between leaves. */
class SessionTest : InAWorld() {
    @Test
    fun `every phase of a whole session in order`() {
        assertEquals(Outcome(waitMs = 2000.0), world.turn(World.retry()))
        assertEquals(listOf("enroll", "check_in", "wait"), world.told())
        assertEquals(Outcome(), world.turn(world.task()))
        val task = listOf("check_in", "task", "fetch", "version", "version 1 snapshot", "compute", "computed")
        assertEquals(task + listOf("report", "report OK"), world.told())
        assertEquals(Outcome(), world.turn(world.evaluation(2, world.version(isHeld = true))))
        val evaluation = listOf("check_in", "task", "fetch", "version", "version 1 unchanged", "compute", "computed")
        assertEquals(evaluation + listOf("report", "report OK"), world.told())
        val last = Finished.newBuilder().setUpdate(world.version(isHeld = true))
        assertEquals(Outcome(isFinished = true), world.turn(CheckInReply.newBuilder().setFinished(last).build()))
        assertEquals(listOf("check_in", "version", "version 1 unchanged", "finished"), world.told())
        assertEquals(1, world.cloud.enrolled)
    }

    @Test
    fun `a check-in before and after there is a bundle, and the report in between`() {
        world.examples += listOf(Example("w1 ".repeat(33_334), "left"), Example("w2", "nowhere"))
        world.turn(world.task())
        world.turn(World.retry())
        val (first, second) = world.cloud.checkIns
        assertTrue(first.bundleSha256.isEmpty && first.adapterSha256.isEmpty)
        assertArrayEquals(hexBytes(world.bundle.sha256), second.bundleSha256.toByteArray())
        assertArrayEquals(AdapterVersion.sha256(world.bundle.adapter), second.adapterSha256.toByteArray())
        assertEquals(0, second.trainExamples % 8)
        assertTrue(second.trainExamples in 240..300)
        val report = world.cloud.reports.single()
        assertEquals(
            listOf(4, 8, 1, 1),
            listOf(report.scalarsCount, report.examples, report.skippedExamples, report.truncatedExamples),
        )
        assertEquals("report-1", report.reportId)
        assertEquals(listOf("check_in", "fetch", "fetch", "compute"), report.timing.spansList.map { it.name })
        assertEquals(100L * (2 + 4 + 1), report.timing.downlinkBytes) // enroll, check-in, bundle's files, snapshot
        assertEquals(world.bundle.layout.segments.size, report.timing.segmentMsCount)
        assertTrue(report.timing.segmentMsList.all { it > 0 })
        assertEquals(mapOf("1" to listOf(4, 0)), world.store.state.disclosed)
    }

    @Test
    fun `what is beyond the budget is refused before anything runs, and costs nothing`() {
        world.turn(world.task(directions = World.directions(count = 65)))
        world.turn(world.task(2, world.version(isHeld = true), World.directions(batchExamples = 4)))
        val refused = ReportStatus.REPORT_STATUS_REFUSED_DISCLOSURE_BUDGET
        assertEquals(listOf(refused, refused), world.cloud.reports.map { it.status })
        assertTrue("compute" !in world.told())
        assertEquals(0, world.program.runs)
        assertTrue(
            world.store.state.disclosed
                .isEmpty(),
        )
    }

    @Test
    fun `the budget of a round holds over tasks and restarts`() {
        repeat(18) { number ->
            world.turn(world.task(7, world.version(isHeld = number > 0)))
            world.start()
        }
        assertEquals(16, world.cloud.reports.count { it.status == ReportStatus.REPORT_STATUS_OK })
        assertEquals(mapOf("7" to listOf(64, 0)), world.store.state.disclosed)
    }

    @Test
    fun `a process that ends between directions goes on behind the finished ones`() {
        world.turn(world.task(1))
        val whole =
            world.cloud.reports
                .single()
                .scalarsList
        world.goOn = { false }
        assertThrows(Stopped::class.java) { world.turn(world.task(2, world.version(isHeld = true))) }
        val done = world.store.progress.of("task-2")
        assertEquals(whole.take(done.size), done.map { it.toFloat() })
        assertTrue(done.size in 1..3)
        world.goOn = { true }
        world.start()
        world.turn(world.task(2, world.version(isHeld = true)))
        assertEquals(whole, world.cloud.reports[1].scalarsList)
        assertTrue(
            world.store.progress
                .of("task-2")
                .isEmpty(),
        )
    }

    @Test
    fun `a report that was not acknowledged is sent again by the next process, under its id`() {
        world.cloud.refusal = IllegalStateException("the process ends here")
        assertThrows(IllegalStateException::class.java) { world.turn(world.task()) }
        world.start()
        assertEquals(Outcome(), world.turn())
        assertEquals(
            "report-1",
            world.cloud.reports
                .single()
                .reportId,
        )
        assertEquals(mapOf("1" to listOf(4, 0)), world.store.state.disclosed)
    }

    @Test
    fun `work that nobody waits for is dropped, after a pause`() {
        world.cloud.refusal = TaskLost("gone")
        assertEquals(Outcome(waitMs = 500.0), world.turn(world.task()))
        assertEquals("lost", world.told().last())
        assertEquals("", world.store.state.pendingReport)
    }

    @Test
    fun `a version that cannot be reached is forgotten, so that a snapshot comes`() {
        world.turn(world.task())
        val wrong = world.version(isHeld = true).toBuilder().setAdapterSha256(world.task().task.bundleSha256)
        assertEquals(Outcome(), world.turn(world.task(2, wrong.build())))
        world.turn(World.retry())
        assertTrue(
            world.cloud.checkIns
                .last()
                .adapterSha256.isEmpty,
        )
        assertEquals(1, world.cloud.reports.size)
    }

    @Test
    fun `a program or a source that fails is a typed error, and the next turn goes on`() {
        world.program.failAt = 2
        assertThrows(ProgramError::class.java) { world.turn(world.task()) }
        world.turn(world.task(1, world.version(isHeld = true)))
        assertEquals(1, world.cloud.reports.size)
        world.examples.clear()
        world.start()
        world.turn(world.task(2, world.version(isHeld = true)))
        assertEquals(
            ReportStatus.REPORT_STATUS_NOT_ENOUGH_EXAMPLES,
            world.cloud.reports
                .last()
                .status,
        )
    }
}
