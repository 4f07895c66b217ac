package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.store.Kind
import org.cooperllm.runtime.zo.Layout
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Guides on their way to a device: the order of chunks, what contradicts itself, and what a kill leaves on disk. */
class GuidesTest : InAWorld() {
    private val layout: Layout get() = world.bundle.layout
    private val small: SmallGuides by lazy { SmallGuides(layout) }
    private val guides: List<Guide> get() = small.announced

    private fun chunks() = small.chunks()

    private fun task() = small.task()

    private fun bytes(
        guide: Int,
        segment: Int,
    ) = small.bytes(small.values(guide, segment))

    @Test
    fun `pieces come segment by segment, guide by guide, and nothing else is taken`() {
        val assembly = GuideAssembly(guides, layout)
        val pieces = chunks().mapNotNull { assembly.add(it) }
        assertEquals(listOf(0 to 1, 0 to 2, 1 to 1, 1 to 2), pieces.map { it.segment to it.guide.byteAt(0).toInt() })
        assertArrayEquals(bytes(1, 0), pieces[1].data)
        assertTrue(assembly.isComplete)
        assertThrows(ArtifactError::class.java) { assembly.add(chunks().last()) }
    }

    @Test
    fun `a chunk that contradicts the task, its piece or its hash is refused`() {
        val good = chunks()
        val wrong: List<GuideChunk.Builder.() -> Unit> =
            listOf(
                { setSegment(1) },
                { setSegment(-1) },
                { setGuide(1) },
                { setOffsetBytes(offsetBytes + 1) },
                { setOffsetBytes(-1) },
                { setSegmentSizeBytes(segmentSizeBytes + 4) },
                { setSegmentSizeBytes(-4) },
                { setSegmentSha256(ByteString.EMPTY) },
                { setData(ByteString.EMPTY) },
                { setData(ByteString.copyFrom(ByteArray(1 shl 20))) },
                { setEncoding(GuideEncoding.GUIDE_ENCODING_CODED) },
                { setEncodingValue(77) },
            )
        for ((number, change) in wrong.withIndex()) {
            val assembly = GuideAssembly(guides, layout)
            assertNull(assembly.add(good[0]))
            val second = good[1].toBuilder().apply(change).build()
            val kind = if (second.encodingValue == 77) UnsupportedTask::class.java else ArtifactError::class.java
            assertThrows("change $number", kind) { assembly.add(second) }
        }
        val assembly = GuideAssembly(guides, layout)
        val altered = good.takeWhile { it.guide == 0 }.map { it.toBuilder().setData(flip(it.data)).build() }
        val error = assertThrows(ArtifactError::class.java) { altered.forEach { assembly.add(it) } }
        assertTrue(error.message, "altered" in error.message.orEmpty())
        assertEquals(GuidePosition(), assembly.position)
    }

    private fun flip(data: ByteString) = ByteString.copyFrom(data.toByteArray().also { it[0] = (it[0] + 1).toByte() })

    @Test
    fun `a task along guides is done, and what came is kept, encoded, under hashes of its own`() {
        world.cloud.chunks += chunks()
        world.turn(world.task(directions = task()))
        assertEquals(
            ReportStatus.REPORT_STATUS_OK,
            world.cloud.reports
                .single()
                .status,
        )
        assertEquals(
            4,
            world.cloud.reports
                .single()
                .scalarsCount,
        )
        val kept = world.store.state.guides
        assertEquals(guides.map { it.sha256.toByteArray().toHexText() }.toSet(), kept.keys)
        val piece = kept.getValue("02".repeat(32)).getValue(1)
        assertArrayEquals(bytes(1, 1), world.store.read(Kind.GUIDES, piece.sha256))
        world.turn(world.task(2, world.version(isHeld = true), task())) // the same guides: nothing is streamed again
        assertEquals(1, world.cloud.starts.size)
        assertEquals(2, world.cloud.reports.size)
    }

    private fun ByteArray.toHexText() = joinToString("") { "%02x".format(it) }

    @Test
    fun `a process that is killed while guides arrive goes on behind the pieces on disk`() {
        world.cloud.chunks += chunks()
        world.cloud.alter = { if (it.segment == 1) throw ServerUnreachable("gone") else it }
        assertThrows(ServerUnreachable::class.java) { world.turn(world.task(directions = task())) }
        world.start()
        world.cloud.alter = { it }
        world.turn(world.task(update = world.version(isHeld = true), directions = task()))
        assertEquals(
            ReportStatus.REPORT_STATUS_OK,
            world.cloud.reports
                .single()
                .status,
        )
        assertEquals(listOf(GuidePosition(), GuidePosition(segment = 1)), world.cloud.starts)
    }

    @Test
    fun `a piece that arrives altered is streamed once more, and twice is a status`() {
        world.cloud.chunks += chunks()
        var altered = 1
        world.cloud.alter = {
            val isHit = it.segment == 1 && it.guide == 0 && altered > 0
            if (isHit) altered--
            if (isHit) it.toBuilder().setData(flip(it.data)).build() else it
        }
        world.turn(world.task(directions = task()))
        assertEquals(listOf(GuidePosition(), GuidePosition(segment = 1)), world.cloud.starts)
        world.store.update { it.copy(guides = emptyMap()) }
        altered = Int.MAX_VALUE
        world.turn(world.task(2, world.version(isHeld = true), task()))
        val statuses = world.cloud.reports.map { it.status }
        assertEquals(listOf(ReportStatus.REPORT_STATUS_OK, ReportStatus.REPORT_STATUS_BAD_ARTIFACT), statuses)
        assertFalse(
            world.store.state.guides
                .isEmpty(),
        ) // the pieces before it arrived whole
    }

    @Test
    fun `what was kept is decoded as a guide only where it was one`() {
        val data = bytes(1, 0)
        GuideAssembly.decode(GuideEncoding.GUIDE_ENCODING_FLOAT32_VALUE, data, data.size / 4, into = null)
        for (encoding in listOf(
            GuideEncoding.GUIDE_ENCODING_STEPS_VALUE,
            GuideEncoding.GUIDE_ENCODING_WHOLE_STEPS_VALUE,
            77,
        )) {
            assertThrows(BadArtifact::class.java) { GuideAssembly.decode(encoding, data, data.size / 4, into = null) }
        }
    }

    @Test
    fun `guides of another adapter, with NaN or without a name are a status`() {
        val bad =
            listOf(
                guides[0].toBuilder().setSha256(ByteString.EMPTY),
                guides[0].toBuilder().clearSegments().addSegments(99),
                guides[0].toBuilder().clearSegments().addAllSegments(listOf(1, 0)),
            )
        for (guide in bad) {
            assertThrows(UnsupportedTask::class.java) { GuideAssembly(listOf(guide.build()), layout) }
        }
        val values = small.values(0, 0).also { it[3] = Float.NaN }
        world.cloud.chunks += small.chunks(0, 0, small.bytes(values))
        world.turn(world.task(directions = task()))
        assertEquals(
            ReportStatus.REPORT_STATUS_BAD_ARTIFACT,
            world.cloud.reports
                .single()
                .status,
        )
    }
}
