package org.cooperllm.runtime.session

import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.ExamplesError
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** What an app may hand over by mistake: counted, refused or told, and the session goes on. */
class BadExamplesTest : InAWorld() {
    @Test
    fun `a label outside the classes is left out, a text of 100,000 characters cut, both are counted`() {
        val long = "w1 ".repeat(33_334).take(100_000)
        world.examples += listOf(Example(long, "left"), Example("w2", "nowhere"), Example("w3", ""))
        val known = world.examples.size - 2
        world.turn(world.task())
        val report = world.cloud.reports.single()
        assertEquals(ReportStatus.REPORT_STATUS_OK, report.status)
        assertEquals(listOf(2, 1), listOf(report.skippedExamples, report.truncatedExamples))
        val told = world.events.last { it.name == "report" }.fields
        assertEquals(listOf<Any?>(2, 1), listOf(told["skipped_examples"], told["truncated_examples"]))
        val private = checkNotNull(world.session.examples.known)
        assertEquals(known, private.train.count + private.heldOut.count)
        val mostTokens = world.bundle.manifest.text.maxTokens
        assertTrue((private.train.lengths + private.heldOut.lengths).all { it in 1..mostTokens })
        world.turn(world.task(2, world.version(isHeld = true)))
        assertEquals(2, world.cloud.reports.size)
    }

    @Test
    fun `texts that are empty, blank or half a character are examples like others`() {
        world.examples += listOf(Example("", "left"), Example(" \n\t", "up"), Example("\uD83D", "right"))
        world.turn(world.task(directions = World.directions(batchExamples = 1000)))
        val report = world.cloud.reports.single()
        assertEquals(ReportStatus.REPORT_STATUS_OK, report.status)
        assertEquals(0, report.skippedExamples + report.truncatedExamples)
        world.turn(world.evaluation(2, world.version(isHeld = true)))
        assertEquals(ReportStatus.REPORT_STATUS_OK, world.cloud.reports[1].status)
    }

    @Test
    fun `a source without examples is told as too few, here and to the cloud, until it has some`() {
        val given = world.examples.toList()
        world.examples.clear()
        world.turn(world.task())
        world.turn(world.evaluation(2, world.version(isHeld = true)))
        val tooFew = ReportStatus.REPORT_STATUS_NOT_ENOUGH_EXAMPLES
        assertEquals(listOf(tooFew, tooFew), world.cloud.reports.map { it.status })
        assertEquals("NOT_ENOUGH_EXAMPLES", world.events.last { it.name == "report" }.fields["status"])
        assertEquals(0, world.program.runs)
        assertTrue(
            world.store.state.disclosed
                .isEmpty(),
        )
        world.examples += given
        world.session.forgetExamples()
        world.turn(world.task(3, world.version(isHeld = true)))
        assertEquals(ReportStatus.REPORT_STATUS_OK, world.cloud.reports[2].status)
    }

    @Test
    fun `labels that are all unknown are too few examples, too`() {
        val renamed = world.examples.map { it.copy(label = "elsewhere") }
        world.examples.clear()
        world.examples += renamed
        world.turn(world.task())
        val report = world.cloud.reports.single()
        assertEquals(ReportStatus.REPORT_STATUS_NOT_ENOUGH_EXAMPLES, report.status)
        assertEquals(renamed.size, report.skippedExamples)
    }

    @Test
    fun `what the source throws is a typed error that names no example`() {
        val source = ExampleSource { error("a secret text") }
        val error = assertThrows(ExamplesError::class.java) { source.ask(null) }
        assertEquals("the example source failed with IllegalStateException: correct it", error.message)
    }
}
