package org.cooperllm.runtime.session

import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withTimeout
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.bits
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.concurrent.CompletableFuture
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicBoolean

/** Versions that arrive with the guides of their task: the bits of whole ones, whoever looks on meanwhile. */
class StreamedVersionTest : StreamedVersions() {
    @Test
    fun `scalars and adapter are those of a delta, whatever the order, and whatever moved`() {
        val needed = Memory(world.bundle).neededBytes
        for (extraBytes in listOf(100, 4000, 1 shl 20)) { // whole guides; groups; all at once
            val limits = Limits(maxMemoryBytes = needed + extraBytes, maxStateBytes = 0)
            for (of in listOf(version, SmallVersion(guides, "the head alone moves"))) {
                val expected = scalarsByDelta(of, limits)
                assertEquals(4, expected.distinct().size)
                for (isWhole in listOf(false, true)) {
                    World(temporary.newFolder(), limits).use { world ->
                        world.atVersion1()
                        val report = world.toVersion2(isWhole, of)
                        assertEquals("$extraBytes $isWhole", expected, bitsOf(report))
                        assertHolds(world, of.after, 2)
                    }
                }
            }
        }
    }

    @Test
    fun `it is told once it is whole, and pieces have spans of their own`() {
        world.atVersion1()
        val report = world.toVersion2()
        val phases = listOf("check_in", "task", "fetch", "guides", "compute", "version 2 streamed", "computed")
        assertEquals(phases + listOf("report", "report OK"), world.told())
        assertTrue(world.cloud.checkIns.all { it.streamsVersions })
        assertEquals(listOf(version.name()), world.cloud.versions)
        assertEquals(version.streamed().adapterSha256, report.adapterSha256)
        val arrived = report.timing.spansList.filter { it.name == "version_arrived" }
        assertEquals(listOf(0, 1, 2), arrived.map { it.segment })
    }

    @Test
    fun `a device that holds nothing takes the version itself`() {
        val report = world.toVersion2(isWhole = true)
        assertEquals(scalarsByDelta(), bitsOf(report))
        assertHolds(world, version.after, 2)
    }

    @Test
    fun `later groups of directions run on the version that the first one completed`() {
        val limits = Limits(maxMemoryBytes = Memory(world.bundle).neededBytes + 4000, maxStateBytes = 0)
        World(temporary.newFolder(), limits).use { world ->
            world.atVersion1()
            world.events.clear()
            world.toVersion2()
            val done = world.events.filter { it.name == "progress" }.mapNotNull { it.fields["directions_done"] }
            assertTrue("$done", done.any { it in 1..3 })
            assertEquals(1, world.told().count { it == "version 2 streamed" })
        }
    }

    @Test
    fun `a segment runs before the next one's version arrives, and others see the adapter as it was`() {
        var ran: CountDownLatch? = null
        world.openProgram = {
            object : Program by world.program {
                override fun run(
                    method: String,
                    inputs: Array<Value>,
                ): Array<Value> = world.program.run(method, inputs).also { if (method == "segment_0") ran?.countDown() }
            }
        }
        world.atVersion1()
        val hasRun = CountDownLatch(1).also { ran = it }
        var isInTime = true
        var seen: List<Int>? = null
        world.cloud.alter = {
            if (it.segment == 1 && seen == null) {
                isInTime = hasRun.await(MOST_S, TimeUnit.SECONDS)
                val engine = checkNotNull(world.holdings.engine)
                seen = runBlocking { withTimeout(MOST_S * 1000) { engine.lock.withLock { engineBits(world) } } }
            }
            it
        }
        assertEquals(scalarsByDelta(), bitsOf(world.toVersion2()))
        assertTrue(isInTime)
        assertEquals(version.before.bits(), seen)
        assertHolds(world, version.after, 2)
    }

    @Test
    fun `a process goes on behind what arrived`() {
        world.atVersion1()
        world.cloud.alter = { if (it.segment == 1) throw ServerUnreachable("gone") else it }
        assertThrows(ServerUnreachable::class.java) { world.toVersion2() }
        assertHolds(world, version.before, 1)
        world.start()
        world.cloud.alter = { it }
        assertEquals(scalarsByDelta(), bitsOf(world.toVersion2()))
        assertEquals(listOf(GuidePosition(), GuidePosition(segment = 1)), world.cloud.starts)
        val name = version.name()
        assertEquals(listOf(name, name), world.cloud.versions)
        assertHolds(world, version.after, 2)
    }

    @Test
    fun `what is stopped in the middle leaves the adapter as it was, and can be done again`() {
        world.atVersion1()
        val never = CountDownLatch(1)
        world.cloud.alter = {
            if (it.segment == 1 && world.goOn()) {
                world.goOn = { false }
                never.await(STOPPED_MS, TimeUnit.MILLISECONDS)
            }
            it
        }
        assertThrows(Stopped::class.java) { world.toVersion2() }
        assertHolds(world, version.before, 1)
        assertEquals(emptyList<Double>(), world.store.progress.of("task-2"))
        world.goOn = { true }
        world.cloud.alter = { it }
        assertEquals(scalarsByDelta(), bitsOf(world.toVersion2()))
        assertHolds(world, version.after, 2)
    }

    @Test
    fun `whoever hears of a version and fails undoes nothing of it`() {
        world.atVersion1()
        world.beforeEvent = { if (it.name == "version") error("the app's own mistake") }
        assertThrows(IllegalStateException::class.java) { world.toVersion2() }
        assertHolds(world, version.after, 2)
        world.beforeEvent = {}
        world.turn(world.task(2, unchanged(), guides.task()))
        assertEquals(scalarsByDelta(), bitsOf(world.cloud.reports.last()))
    }

    @Test
    fun `what others compute meanwhile is on one version, and cost no task`() {
        world.atVersion1()

        val examples = world.examples.take(2)

        fun loss(): Double = runBlocking { world.session.learned.evaluate(examples, usePersonal = false) }.meanLoss

        val before = loss()
        val seen = mutableListOf<Double>()
        val isOver = AtomicBoolean()
        val others = CompletableFuture.runAsync { while (!isOver.get()) seen += loss() }
        world.cloud.alter = { chunk -> chunk.also { Thread.sleep(1) } } // so that segments are waited for
        try {
            assertEquals(scalarsByDelta(), bitsOf(world.toVersion2()))
        } finally {
            isOver.set(true)
            others.get()
        }
        assertTrue("${seen.size}", seen.size > 2)
        assertEquals(setOf(before, loss()), seen.toSet() + before + loss())
        assertNotEquals(before, loss(), 0.0)
    }

    private companion object {
        const val MOST_S = 20L
        const val STOPPED_MS = 400L
    }
}
