package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withTimeout
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Finished
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.protos.Report
import org.cooperllm.protos.ReportStatus
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.bits
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit

/** Versions that arrive with the guides of their task: the bits of whole ones, and nothing of a bad one. */
class StreamedVersionTest : InAWorld() {
    private val guides: SmallGuides by lazy { SmallGuides(world.bundle.layout) }
    private val version: SmallVersion by lazy { SmallVersion(guides) }

    /** A device that has done a task about version 1. */
    private fun World.atVersion1(): World =
        apply {
            turn(task())
            told()
        }

    /** A turn about version 2, which comes along. */
    private fun World.toVersion2(
        isWhole: Boolean = false,
        of: SmallVersion = version,
        task: DirectionsTask = guides.task(),
    ): Report {
        cloud.chunks.clear()
        cloud.chunks += of.chunks(isWhole)
        turn(task(2, of.streamed(isWhole), task))
        return cloud.reports.last()
    }

    private fun scalarsByDelta(
        of: SmallVersion = version,
        limits: Limits = Limits(),
    ): List<Int> =
        World(temporary.newFolder(), limits).use { world ->
            world.atVersion1()
            world.cloud.chunks += guides.chunks()
            world.turn(world.task(2, of.byDelta(world.cloud), guides.task()))
            assertHolds(world, of.after, 2)
            bitsOf(world.cloud.reports.last())
        }

    private fun bitsOf(report: Report): List<Int> {
        assertEquals(report.detail, ReportStatus.REPORT_STATUS_OK, report.status)
        return report.scalarsList.map { it.toRawBits() }
    }

    private fun engineBits(world: World): List<Int> =
        checkNotNull(world.holdings.engine)
            .core.adapter
            .toArray()
            .bits()

    private fun assertHolds(
        world: World,
        values: FloatArray,
        number: Long,
    ) {
        assertEquals(number, world.store.state.adapterVersion)
        assertArrayEquals(guides.bytes(values), world.store.readAdapter())
        assertEquals(values.bits(), engineBits(world))
    }

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
        assertHolds(world, version.after, 2)
    }

    @Test
    fun `what is stopped in the middle leaves the adapter as it was, and can be done again`() {
        world.atVersion1()
        val never = CountDownLatch(1)
        world.cloud.alter = {
            if (it.segment == 1) {
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
    fun `of a bad version nothing is used, and the next check-in claims none`() {
        val other = ByteString.copyFrom(ByteArray(32) { 7 })
        val bad: List<(World) -> VersionUpdate> =
            listOf(
                { world ->
                    world.cloud.chunks += version.chunks { it.copyOf(it.size - 1) } // its hash is that of what came
                    version.streamed()
                },
                { world ->
                    world.cloud.chunks += version.chunks()
                    version
                        .streamed()
                        .toBuilder()
                        .setAdapterSha256(other)
                        .build()
                },
                { world ->
                    world.cloud.chunks += version.chunks()
                    version
                        .streamed()
                        .toBuilder()
                        .setFromVersion(7)
                        .build()
                },
            )
        val expected = scalarsByDelta()
        for (spoiled in bad) {
            World(temporary.newFolder()).use { world ->
                world.atVersion1()
                assertEquals(Outcome(), world.turn(world.task(2, spoiled(world), guides.task())))
                assertEquals(1, world.cloud.reports.size) // of version 1
                assertEquals(emptyList<Double>(), world.store.progress.of("task-2"))
                assertEquals(version.before.bits(), engineBits(world))
                assertEquals(expected, bitsOf(world.toVersion2(isWhole = true)))
                assertTrue(
                    world.cloud.checkIns
                        .last()
                        .adapterSha256.isEmpty,
                )
            }
        }
    }

    @Test
    fun `a device that claims none already reports a bad version`() {
        world.cloud.chunks += version.chunks(isWhole = true) { it.copyOf(it.size - 1) }
        world.turn(world.task(2, version.streamed(isWhole = true), guides.task()))
        val report = world.cloud.reports.single()
        assertEquals(ReportStatus.REPORT_STATUS_BAD_ARTIFACT, report.status)
        assertEquals(0, report.scalarsCount)
    }

    @Test
    fun `a version that would come too late is refused`() {
        val late: List<DirectionsTask.Builder.() -> Unit> =
            listOf(
                { clearActiveSegments().addAllActiveSegments(listOf(0, 2)).setExitSegment(1) },
                { clearActiveSegments().addAllActiveSegments(listOf(1, 2)) },
                { setInTurn(true) },
                { clearGuides().clearSteps().addAllSteps(World.directions().stepsList) },
            )
        world.atVersion1()
        for ((number, change) in late.withIndex()) {
            val report =
                world.toVersion2(
                    task =
                        guides
                            .task()
                            .toBuilder()
                            .apply(change)
                            .build(),
                )
            assertEquals("$number", ReportStatus.REPORT_STATUS_UNSUPPORTED_TASK, report.status)
            assertTrue(report.detail, "a version streams only" in report.detail)
            assertHolds(world, version.before, 1)
        }
    }

    @Test
    fun `a guide's encoding is none of a version's, nor the other way round`() {
        world.atVersion1()
        for ((place, encoding) in listOf(
            0 to GuideEncoding.GUIDE_ENCODING_CODED,
            0 to GuideEncoding.GUIDE_ENCODING_FLOAT32,
            1 to GuideEncoding.GUIDE_ENCODING_STEPS,
            1 to GuideEncoding.GUIDE_ENCODING_WHOLE_STEPS,
        )) {
            world.cloud.alter = { if (it.guide == place) it.toBuilder().setEncoding(encoding).build() else it }
            val report = world.toVersion2()
            assertEquals("$place", ReportStatus.REPORT_STATUS_UNSUPPORTED_TASK, report.status)
            assertTrue(report.detail, "guide encoding" in report.detail)
            assertHolds(world, version.before, 1)
        }
    }

    @Test
    fun `a job that is over streams nothing`() {
        world.atVersion1()
        val last = Finished.newBuilder().setUpdate(version.streamed())
        assertEquals(Outcome(), world.turn(CheckInReply.newBuilder().setFinished(last).build()))
        assertEquals("", world.store.state.adapterSha256)
        assertEquals(version.before.bits(), engineBits(world))
    }

    private companion object {
        const val MOST_S = 20L
        const val STOPPED_MS = 400L
    }
}
