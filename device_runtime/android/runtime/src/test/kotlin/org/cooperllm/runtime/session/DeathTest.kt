package org.cooperllm.runtime.session

import org.cooperllm.protos.Report
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** A process that ends at any of its events is followed by one that hands in the same report, once. */
class DeathTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private class Death : Error()

    @Test
    fun `an end in any phase loses no work and discloses nothing twice`() {
        val (undisturbed, names) = World(temporary.newFolder()).use { it.turn(it.task()) to it.phasesAndNames() }
        assertEquals(Outcome(), undisturbed)
        val phases = setOf("enroll", "check_in", "fetch", "version", "compute", "report")
        assertTrue("$names", names.containsAll(phases))
        val whole = endedAt(names.size) // later than the last event: never
        for (end in names.indices) {
            val report = endedAt(end)
            assertEquals("at ${names[end]}", whole.scalarsList, report.scalarsList)
            assertEquals("at ${names[end]}", whole.examples, report.examples)
        }
    }

    /** The one report that arrives when the first process ends before this event. */
    private fun endedAt(end: Int): Report =
        World(temporary.newFolder()).use { world ->
            var events = 0
            world.beforeEvent = { if (events++ == end) throw Death() }
            val death = runCatching { world.turn(world.task()) }.exceptionOrNull()
            world.beforeEvent = {}
            if (death != null) {
                assertTrue("$death", death is Death)
                world.cloud.replies.clear()
                world.start()
                world.turnsUntilReported()
            }
            assertEquals(mapOf("1" to listOf(4, 0)), world.store.state.disclosed)
            assertNotNull(world.store.readAdapter())
            assertEquals("", world.store.state.pendingReport)
            world.cloud.reports.single()
        }

    /** What the cloud does then: it gives the task again, until its report has come. */
    private fun World.turnsUntilReported() {
        repeat(3) {
            if (store.state.pendingReport.isNotEmpty()) turn()
            if (cloud.reports.isEmpty()) turn(task(update = version(isHeld = store.readAdapter() != null)))
        }
    }

    private fun World.phasesAndNames(): List<String> = events.map { (it.fields["phase"] ?: it.name).toString() }
}
