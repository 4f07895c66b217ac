package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.runBlocking
import org.cooperllm.protos.Direction
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.GuideTerm
import org.cooperllm.protos.Step
import org.cooperllm.runtime.BudgetExceeded
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Pauses by an injected clock, keys in the Python device's format, and where a direction's energy lies. */
class NetworkTest {
    private var nowMs = 0.0
    private val pauses = mutableListOf<Double>()

    private fun retry() =
        Retry(
            clockMs = { nowMs },
            uniform = { _, high -> high },
            pause = {
                pauses += it
                nowMs += it
            },
        )

    @Test
    fun `pauses double up to the longest, until patience ends`() {
        val error =
            assertThrows(ServerUnreachable::class.java) {
                runBlocking { retry().run<Unit>("cloud:1") { throw Transient("down") } }
            }
        assertEquals(listOf(200.0, 400.0, 800.0, 1600.0, 3200.0), pauses)
        assertTrue(error.message.orEmpty().startsWith("no answer from cloud:1 (down)"))
    }

    @Test
    fun `once reached, a service is waited for longer`() {
        val retry = retry()
        runBlocking { retry.run("cloud:1") { } }
        assertThrows(ServerUnreachable::class.java) {
            runBlocking { retry.run<Unit>("cloud:1") { throw Transient("down") } }
        }
        assertTrue(nowMs in 280_000.0..300_000.0)
    }

    @Test
    fun `a key is read back from what was written, and nothing else is a key`() {
        val signer = SoftwareSigner.generate()
        assertArrayEquals(signer.publicKey, SoftwareSigner.fromPem(signer.pem())?.publicKey)
        assertNull(SoftwareSigner.fromPem(ByteArray(0)))
        assertNull(
            SoftwareSigner.fromPem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".toByteArray()),
        )
        val altered =
            signer
                .pem()
                .decodeToString()
                .replace("Q", "R")
                .toByteArray()
        val found = SoftwareSigner.fromPem(altered)
        assertTrue(found == null || altered.contentEquals(signer.pem()))
    }

    @Test
    fun `a guide that is tiny outside the head counts as the head's, and one on a single parameter is refused`() {
        val layout =
            Layout(listOf(LayoutTensor("a", 0, intArrayOf(600), 0, 20), LayoutTensor("b", 1, intArrayOf(100), 600, 20)))
        val name = ByteString.copyFrom(ByteArray(32) { 1 })

        fun weigh(
            body: FloatArray,
            head: FloatArray,
        ) = Weighing.weigh(
            task(name),
            Supplies(null, mapOf(name to mapOf(0 to FloatVector.of(body), 1 to FloatVector.of(head)))),
            layout,
            head = 1,
        )
        assertEquals(Cost(2, 0), weigh(FloatArray(600), FloatArray(100)))
        assertEquals(Cost(2, 2), weigh(FloatArray(600), FloatArray(100) { 50f }))
        val one = FloatArray(600).also { it[7] = 1e6f }
        assertThrows(BudgetExceeded::class.java) { weigh(one, FloatArray(100)) }
    }

    private fun task(guide: ByteString): DirectionsTask {
        val term = GuideTerm.newBuilder().setGuideSha256(guide).setCoefficient(1.0)
        val direction =
            Direction
                .newBuilder()
                .setCount(2)
                .setIsotropicScale(1.0)
                .addGuides(term)
        val step = Step.newBuilder().setBatchExamples(8).addDirections(direction)
        return DirectionsTask
            .newBuilder()
            .addAllActiveSegments(listOf(0, 1))
            .addSteps(step)
            .build()
    }
}
