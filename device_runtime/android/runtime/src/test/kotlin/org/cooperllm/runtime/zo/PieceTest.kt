package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.bundle.GoldenBundle
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Versions of the golden bundle's adapter in pieces, as Python writes them. */
class PieceTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val layout: Layout by lazy { Bundle.open(GoldenBundle.copyTo(temporary.newFolder())).layout }

    @Test
    fun `golden pieces lead where their delta does`() {
        for (case in Golden("pieces").cases) {
            val before = FloatVector.of(case.floats("before"))
            val byDelta = before.copy().also { AdapterVersion.applyDelta(case.bytes("delta", "uint8"), it, layout) }
            assertEquals(case.floats("after").bits(), byDelta.toArray().bits())
            val arriving = case.floats("before")
            for (piece in case.list("pieces")) {
                val segment = piece.int("segment")
                val steps = AdapterVersion.decodePiece(piece.bytes("steps", "uint8"), before, layout, segment)
                val whole = AdapterVersion.decodePiece(piece.bytes("whole", "uint8"), null, layout, segment)
                assertEquals(steps.toArray().bits(), whole.toArray().bits())
                steps.toArray().copyInto(arriving, layout.segmentOffset(segment))
            }
            assertEquals(case.text("name"), case.floats("after").bits(), arriving.bits())
        }
    }

    @Test
    fun `a piece that was cut, or leads out of the range, is refused`() {
        val case = Golden("pieces").cases.first()
        val before = FloatVector.of(case.floats("before"))
        val highest = FloatVector.of(FloatArray(before.count) { (Grid.LAST_STEP * Grid.powerOfTwo(-20)).toFloat() })
        for (piece in case.list("pieces")) {
            val data = piece.bytes("steps", "uint8")
            for (damaged in listOf(ByteArray(0), data.copyOf(7), data.copyOf(data.size - 1), data + 0)) {
                assertThrows(BadArtifact::class.java) {
                    AdapterVersion.decodePiece(damaged, before, layout, piece.int("segment"))
                }
            }
            val error =
                assertThrows(BadArtifact::class.java) {
                    AdapterVersion.decodePiece(data, highest, layout, piece.int("segment"))
                }
            assertTrue(error.message, "out of its range" in error.message.orEmpty())
        }
    }

    @Test
    fun `vectors exchange all their values`() {
        val one = FloatVector.of(FloatArray(COUNT) { it.toFloat() })
        val other = FloatVector.of(FloatArray(COUNT) { -it.toFloat() })
        val before = listOf(one.toArray().bits(), other.toArray().bits())
        one.swapWith(other)
        assertEquals(before, listOf(other.toArray().bits(), one.toArray().bits()))
    }

    private companion object {
        /** More than is exchanged at once. */
        const val COUNT = 10_001
    }
}
