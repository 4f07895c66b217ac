package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.random.Random

/** Coded integers and guides: the reference's streams bit for bit, and damage of every kind refused. */
class GuideCodeTest {
    private val cases = Golden("guide_code").cases

    private fun stream(case: GoldenCase) = case.bytes("stream", "uint8")

    @Test
    fun `integers are the reference's`() {
        val integers = cases.filter { it.text("what") == "integers" }
        assertTrue(integers.size > 10)
        for (case in integers) {
            val values = case.ints("values")
            assertArrayEquals(case.text("name"), values, GuideCode.integers(stream(case), 0, values.size))
            val behind = ByteArray(7) { 9 } + stream(case)
            assertArrayEquals(case.text("name"), values, GuideCode.integers(behind, 7, values.size))
        }
    }

    @Test
    fun `guides are the reference's, bit for bit`() {
        val guides = cases.filter { it.text("what") == "guide" && it.text("status") == "OK" }
        assertTrue(guides.size > 8)
        for (case in guides) {
            val decoded = case.floats("decoded")
            val found = FloatVector.of(FloatArray(decoded.size) { 7f })
            GuideCode.decode(stream(case), decoded.size, found)
            assertEquals(case.text("name"), decoded.bits(), found.toArray().bits())
        }
    }

    @Test
    fun `damaged streams are refused`() {
        val damaged = cases.filter { it.text("what").startsWith("damaged") }
        assertTrue(damaged.size > 50)
        for (case in damaged) {
            assertThrows(case.text("name"), BadArtifact::class.java) {
                if (case.text("what") == "damaged guide") {
                    GuideCode.decode(stream(case), case.int("count"), into = null)
                } else {
                    GuideCode.integers(stream(case), 0, case.int("count"))
                }
            }
        }
    }

    /** Whatever the bytes are: an answer or a refusal, and nothing else. */
    @Test
    fun `random bytes and every cut end in an answer or a refusal`() {
        val random = Random(5)
        val whole = stream(cases.first { it.text("name") == "middling" })
        val count = cases.first { it.text("name") == "middling" }.floats("decoded").size
        for (size in whole.indices) {
            assertThrows(BadArtifact::class.java) { GuideCode.decode(whole.copyOf(size), count, into = null) }
        }
        repeat(3000) {
            val bytes = if (it % 2 == 0) random.nextBytes(random.nextInt(300)) else whole.copyOf()
            repeat(3) { if (bytes.isNotEmpty()) bytes[random.nextInt(bytes.size)] = random.nextInt().toByte() }
            for (wanted in listOf(count, 0, 1, 5000)) {
                try {
                    assertEquals(wanted, GuideCode.integers(bytes, minOf(12, bytes.size), wanted).size)
                } catch (refused: BadArtifact) {
                    assertTrue(refused.message.orEmpty().contains("fetch it again"))
                }
            }
        }
    }
}
