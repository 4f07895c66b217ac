package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Finished
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.protos.ReportStatus
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.zo.bits
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What is wrong with a version that arrives with guides: nothing of it is used, and the device goes on. */
class BadStreamedVersionTest : StreamedVersions() {
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
                assertTrue(heldPieces(world).none { it in OF_VERSIONS })
                val asBefore = world.toVersion2(isWhole = true, name = version.name())
                assertEquals(expected, bitsOf(asBefore)) // the same name: nothing of the bad one was kept
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
    fun `a kept piece of a version is no guide, nor the other way round`() {
        world.atVersion1()
        world.toVersion2()
        val named = guides.announced.map { it.toBuilder() }
        named[0].setSha256(version.name())
        val task = guides.task(announced = named.map { it.build() }).toBuilder()
        world.cloud.chunks.clear() // this device has pieces of that name, and of the other guide
        for (inTurn in listOf(false, true)) {
            world.turn(world.task(3, unchanged(), task.setInTurn(inTurn).build()))
            val report = world.cloud.reports.last()
            assertEquals(report.detail, ReportStatus.REPORT_STATUS_BAD_ARTIFACT, report.status)
            assertTrue(report.detail, "encoding" in report.detail)
        }
        val (one, other) = guides.announced // of the other, a piece was kept since version 2
        val update = version.streamed(name = other.sha256, segments = other.segmentsList).toBuilder()
        world.cloud.chunks += guides.chunks().filter { it.guide == 0 }.map { it.toBuilder().setGuide(1).build() }
        world.turn(world.task(4, update.setFromVersion(2).build(), guides.task(announced = listOf(one))))
        assertEquals("", world.store.state.adapterSha256) // a bad version
        assertEquals(version.after.bits(), engineBits(world))
    }

    @Test
    fun `two of the same name are refused`() {
        world.atVersion1()
        val report = world.toVersion2(name = guides.announced[1].sha256)
        assertEquals(ReportStatus.REPORT_STATUS_UNSUPPORTED_TASK, report.status)
        assertTrue(report.detail, "the same name" in report.detail)
        val twice = guides.task().toBuilder()
        twice.addGuides(twice.getGuides(0))
        world.turn(world.task(3, world.version(isHeld = true), twice.build()))
        assertEquals(
            ReportStatus.REPORT_STATUS_UNSUPPORTED_TASK,
            world.cloud.reports
                .last()
                .status,
        )
        assertHolds(world, version.before, 1)
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
        val OF_VERSIONS =
            setOf(GuideEncoding.GUIDE_ENCODING_STEPS_VALUE, GuideEncoding.GUIDE_ENCODING_WHOLE_STEPS_VALUE)
    }
}
