package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Report
import org.cooperllm.protos.ReportStatus
import org.cooperllm.protos.Unchanged
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.zo.bits
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals

/** What tests of versions that arrive with the guides of their task begin with, do and look at. */
abstract class StreamedVersions : InAWorld() {
    internal val guides: SmallGuides by lazy { SmallGuides(world.bundle.layout) }
    internal val version: SmallVersion by lazy { SmallVersion(guides) }

    /** A device that has done a task about version 1. */
    internal fun World.atVersion1(): World =
        apply {
            turn(task())
            told()
        }

    /** A turn about version 2, which comes along. */
    internal fun World.toVersion2(
        isWhole: Boolean = false,
        of: SmallVersion = version,
        task: DirectionsTask = guides.task(),
        name: ByteString = of.name(isWhole),
    ): Report {
        cloud.chunks.clear()
        cloud.chunks += of.chunks(isWhole)
        turn(task(2, of.streamed(isWhole, name), task))
        return cloud.reports.last()
    }

    internal fun scalarsByDelta(
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

    internal fun bitsOf(report: Report): List<Int> {
        assertEquals(report.detail, ReportStatus.REPORT_STATUS_OK, report.status)
        return report.scalarsList.map { it.toRawBits() }
    }

    internal fun heldPieces(world: World): List<Int> =
        world.store.state.guides.values
            .flatMap { of -> of.values.map { it.encoding } }

    internal fun engineBits(world: World): List<Int> =
        checkNotNull(world.holdings.engine)
            .core.adapter
            .toArray()
            .bits()

    internal fun assertHolds(
        world: World,
        values: FloatArray,
        number: Long,
    ) {
        assertEquals(number, world.store.state.adapterVersion)
        assertArrayEquals(guides.bytes(values), world.store.readAdapter())
        assertEquals(values.bits(), engineBits(world))
    }

    /** For a device that holds version 2. */
    internal fun unchanged(): VersionUpdate =
        version
            .streamed()
            .toBuilder()
            .setUnchanged(Unchanged.getDefaultInstance())
            .build()
}
