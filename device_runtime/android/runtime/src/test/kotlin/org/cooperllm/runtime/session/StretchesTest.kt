package org.cooperllm.runtime.session

import org.cooperllm.runtime.Stopped
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Tasks whose conditions or time go away while they are computed, on a clock on which every run takes a second. */
class StretchesTest {
    @get:Rule
    val temporary = TemporaryFolder()

    /** What the conditions answer, look by look; true without an answer. */
    private val looks = ArrayDeque<Boolean>()
    private val pausesMs = mutableListOf<Double>()
    private val worlds = mutableListOf<World>()
    private val whole by lazy { scalarsOf(world()) }

    @After
    fun close() = worlds.forEach { it.close() }

    @Test
    fun `a task waits for its conditions and goes on behind the last direction`() {
        val world = world()
        looks += listOf(true, true, false, false, false, true)
        assertEquals(Outcome(), world.turn(world.task()))
        assertEquals(BEGIN + listOf("compute", "paused", "resumed", "compute") + END, world.told())
        assertEquals(listOf(1000.0, 1000.0, 1000.0), pausesMs)
        val report = world.cloud.reports.single()
        assertEquals(4L * RUNS, report.timing.segmentRuns) // none was measured twice
        assertEquals(
            listOf("compute", "compute"),
            report.timing.spansList
                .takeLast(2)
                .map { it.name },
        )
        assertEquals(whole, report.scalarsList)
    }

    @Test
    fun `every direction may be the last of a stretch`() {
        val world = world()
        looks += listOf(true, false, true, false, true, false, true)
        world.turn(world.task())
        val stretches = List(3) { listOf("compute", "paused", "resumed") }.flatten()
        assertEquals(BEGIN + stretches + "compute" + END, world.told())
        val report = world.cloud.reports.single()
        assertEquals(4L * RUNS, report.timing.segmentRuns)
        assertEquals(whole, report.scalarsList)
    }

    @Test
    fun `a lease that expires during the wait is dropped`() {
        val world = world()
        looks += listOf(true, true) + List(1000) { false }
        val task = world.task()
        val short = task.toBuilder().setTask(task.task.toBuilder().setLeaseRemainingMs(90_000)).build()
        assertEquals(Outcome(waitMs = 500.0), world.turn(short))
        assertEquals(BEGIN + listOf("compute", "paused", "lost"), world.told())
        assertTrue(pausesMs.size in 2..90)
        assertTrue(world.cloud.reports.isEmpty())
        assertTrue(
            world.store.progress
                .of("task-1")
                .isEmpty(),
        )
    }

    @Test
    fun `nothing begins while a condition is missing`() {
        val world = world()
        looks += listOf(false, false, true)
        repeat(2) {
            assertEquals(Outcome(waitMs = 10_000.0), world.turn())
            world.elapsedMs += 1000
        }
        assertEquals(listOf("paused"), world.told())
        world.turn(world.task())
        assertEquals(listOf("resumed") + BEGIN + "compute" + END, world.told())
    }

    @Test
    fun `the conditions are asked at most once a second`() {
        val world = world()
        var asked = 0
        val watch = Watch(conditions = { emptyList<String>().also { asked++ } }, elapsedMs = { world.elapsedMs })
        repeat(5) { assertTrue(watch.goesOn()) }
        assertEquals(1, asked)
        world.elapsedMs += 1000
        assertTrue(watch.goesOn())
        assertEquals(2, asked)
    }

    @Test
    fun `a stop during the wait ends it and the next process goes on`() {
        val world = world()
        looks += listOf(true, true, false)
        world.pause = { throw Stopped("now") }
        assertThrows("now", Stopped::class.java) { world.turn(world.task()) }
        goesOn(world)
    }

    @Test
    fun `a stop between any two directions keeps what was finished`() {
        for (last in 1..3) {
            val world = world()
            var asked = 0
            world.goOn = { ++asked < last }
            assertThrows(Stopped::class.java) { world.turn(world.task()) }
            assertEquals(
                last,
                world.store.progress
                    .of("task-1")
                    .size,
            )
            world.goOn = { true }
            goesOn(world)
        }
    }

    @Test
    fun `when the session's time is up the next session goes on`() {
        val world = world(Limits(maxDurationMs = 30_000))
        world.watch.beginSession()
        assertThrows(Stopped::class.java) { world.turn(world.task()) }
        assertTrue(world.watch.isTimeUp)
        assertEquals(0.0, world.watch.withinSession(5000.0), 0.0)
        var sessions = 1
        while (world.cloud.reports.isEmpty()) {
            sessions++
            world.watch.beginSession()
            assertEquals(5000.0, world.watch.withinSession(5000.0), 0.0)
            val before =
                world.store.progress
                    .of("task-1")
                    .size
            runCatching { world.turn(world.task(update = world.version(isHeld = true))) }
                .onFailure { assertTrue(it is Stopped) }
            val now = world.store.progress.of("task-1")
            assertTrue(now.size > before || world.cloud.reports.isNotEmpty())
        }
        assertEquals(2, sessions)
        assertEquals(whole, scalarsOf(world))
    }

    private fun goesOn(world: World) {
        val kept = world.store.progress.of("task-1")
        assertEquals(whole.take(kept.size), kept.map { it.toFloat() })
        world.told()
        world.start()
        world.turn(world.task(update = world.version(isHeld = true)))
        assertEquals(AGAIN + "compute" + END, world.told())
        assertEquals(whole, scalarsOf(world))
        assertEquals(
            (4L - kept.size) * RUNS,
            world.cloud.reports
                .single()
                .timing.segmentRuns,
        )
    }

    private fun scalarsOf(world: World): List<Float> {
        if (world.cloud.reports.isEmpty()) world.turn(world.task())
        return world.cloud.reports
            .single()
            .scalarsList
    }

    private fun world(limits: Limits = Limits()): World {
        val conditions = Conditions { if (looks.removeFirstOrNull() != false) emptyList() else listOf("charging") }
        val world = World(temporary.newFolder(), limits, conditions).also { worlds += it }
        world.program.beforeRun = { world.elapsedMs += 1000 }
        world.pause = { pauseMs ->
            pausesMs += pauseMs
            world.elapsedMs += pauseMs
        }
        return world
    }

    private companion object {
        val BEGIN = listOf("enroll", "check_in", "task", "fetch", "version", "version 1 snapshot")
        val AGAIN = listOf("enroll", "check_in", "task", "fetch", "version", "version 1 unchanged")
        val END = listOf("computed", "report", "report OK")

        /** Of a direction: two signs, four batches of two, three segments. */
        const val RUNS = 24
    }
}
