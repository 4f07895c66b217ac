package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import io.grpc.InsecureServerCredentials
import io.grpc.Server
import io.grpc.Status
import io.grpc.StatusException
import io.grpc.okhttp.OkHttpServerBuilder
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.CheckInRequest
import org.cooperllm.protos.FederationGrpcKt.FederationCoroutineImplBase
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.StreamGuidesRequest
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ProtocolMismatch
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.ServerUnreachable
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.net.InetAddress
import java.net.InetSocketAddress

/** Calls over real gRPC: deadlines, cancellation, a service that is away for a while, and streams that break off. */
class TransportTest {
    private val cloud = Scripted()
    private val signer = SoftwareSigner.generate()
    private var server = serve(0)
    private val port = server.port
    private var transport: Transport? = null

    /** A service that does what a test says. */
    private class Scripted : FederationCoroutineImplBase() {
        var calls = 0
        var answer: suspend () -> CheckInReply = { World.retry() }
        var stream: suspend (first: Int) -> List<Int> = { emptyList() }
        var isQueued = false
        val starts = mutableListOf<GuidePosition>()
        val versions = mutableListOf<ByteString>()

        override suspend fun checkIn(request: CheckInRequest): CheckInReply {
            calls++
            return answer()
        }

        /** Chunks of a hundred bytes, six of them; a negative one breaks the stream off. */
        override fun streamGuides(request: StreamGuidesRequest): Flow<GuideChunk> =
            flow {
                starts += GuidePosition(request.firstSegment, request.firstGuide, request.firstByte)
                versions += request.version
                for (index in stream((request.firstByte / CHUNK_BYTES).toInt())) {
                    if (index < 0) throw StatusException(Status.UNAVAILABLE)
                    emit(index)
                }
            }.map {
                GuideChunk
                    .newBuilder()
                    .setSegment(2)
                    .setGuide(1)
                    .setOffsetBytes(it * CHUNK_BYTES)
                    .setData(ByteString.copyFrom(ByteArray(CHUNK_BYTES.toInt())))
                    .setQueued(isQueued)
                    .setLast(it == CHUNKS - 1)
                    .build()
            }
    }

    private fun serve(port: Int): Server =
        OkHttpServerBuilder
            .forPort(InetSocketAddress(InetAddress.getLoopbackAddress(), port), InsecureServerCredentials.create())
            .addService(cloud)
            .build()
            .start()

    /** With pauses of no length, of which a test hears. */
    private fun open(
        deadlineMs: Long = 30_000,
        firstContactMs: Double = 500.0,
        pause: suspend (Double) -> Unit = {},
    ): Transport {
        val retry = Retry(firstContactMs, uniform = { low, _ -> low }, pause = pause)
        val address = ServiceAddress("127.0.0.1:$port", tls = false)
        return Transport(address, signer, retry, deadlineMs).also { transport = it }
    }

    private fun checkIn(transport: Transport) = runBlocking { transport.checkIn(CheckInRequest.getDefaultInstance()) }

    @After
    fun stop() {
        transport?.close()
        server.shutdownNow()
    }

    @Test
    fun `a call without an answer ends by its deadline here and there, and is repeated until patience ends`() {
        val ended = CompletableDeferred<Unit>()
        cloud.answer = {
            try {
                awaitCancellation()
            } finally {
                ended.complete(Unit)
            }
        }
        val error = assertThrows(ServerUnreachable::class.java) { checkIn(open(deadlineMs = 150)) }
        assertTrue(error.message, error.message.orEmpty().startsWith("no answer from 127.0.0.1:$port (deadline_exc"))
        assertTrue("${cloud.calls}", cloud.calls in 2..4)
        runBlocking { withTimeout(MOST_MS) { ended.await() } }
    }

    @Test
    fun `whoever cancels is free at once, the service hears of it, and nothing is repeated`() =
        runBlocking {
            val begun = CompletableDeferred<Unit>()
            val ended = CompletableDeferred<Unit>()
            cloud.answer = {
                begun.complete(Unit)
                try {
                    awaitCancellation()
                } finally {
                    ended.complete(Unit)
                }
            }
            val transport = open()
            val job = launch(Dispatchers.IO) { transport.checkIn(CheckInRequest.getDefaultInstance()) }
            withTimeout(MOST_MS) {
                begun.await()
                job.cancelAndJoin()
                ended.await()
            }
            assertEquals(1, cloud.calls)
        }

    /** gRPC's channel would look again after 1 s, then 1.6 s and so on, up to two minutes. */
    @Test
    fun `a service that is down and comes back is found by the next call`() {
        server.shutdownNow().awaitTermination()
        var pauses = 0
        val transport =
            open(firstContactMs = MOST_MS.toDouble()) {
                if (++pauses == 3) server = serve(port)
                delay(PAUSE_MS)
            }
        assertEquals(World.retry(), checkIn(transport))
        assertEquals(1, cloud.calls)
        assertTrue("$pauses pauses", pauses in 3..20)
        server.shutdownNow().awaitTermination() // and once more, under a connection that was there
        pauses = 0
        assertEquals(World.retry(), checkIn(transport))
        assertTrue("$pauses pauses", pauses in 3..20)
    }

    @Test
    fun `a stream of guides goes on at the first byte that is missing, and ends with the last chunk`() {
        cloud.stream = { first -> if (first == 0) listOf(0, 1, 2, -1) else (first until CHUNKS).toList() + 2 }
        val transport = open()
        val version = ByteString.copyFrom(ByteArray(32) { 5 })
        val chunks = runBlocking { transport.streamGuides("task", GuidePosition(), version).toList() }
        assertEquals((0 until CHUNKS).map { it * CHUNK_BYTES }, chunks.map { it.offsetBytes })
        assertEquals(listOf(GuidePosition(), GuidePosition(2, 1, 3 * CHUNK_BYTES)), cloud.starts)
        assertEquals(listOf(version, version), cloud.versions)
        val later = GuidePosition(2, 1, 4 * CHUNK_BYTES)
        assertEquals(2, runBlocking { transport.streamGuides("task", later).toList() }.size)
        assertEquals(later, cloud.starts.last())
        assertTrue(cloud.versions.last().isEmpty)
        assertEquals(0.0, transport.traffic.downloadBytesPerS, 0.0) // none had waited for the link
    }

    @Test
    fun `the link is measured on chunks that had waited for it`() {
        cloud.isQueued = true
        cloud.stream = {
            delay(PAUSE_MS)
            List(CHUNKS * CHUNKS * CHUNKS) { index -> if (index == CHUNKS * CHUNKS * CHUNKS - 1) CHUNKS - 1 else 0 }
        }
        val transport = open()
        val count = runBlocking { transport.streamGuides("task", GuidePosition()).toList().size }
        assertEquals(CHUNKS * CHUNKS * CHUNKS, count)
        assertTrue("${transport.traffic.downloadBytesPerS}", transport.traffic.downloadBytesPerS > CHUNK_BYTES)
    }

    @Test
    fun `a stream that brings nothing is a typed error`() {
        cloud.stream = { emptyList() }
        assertThrows(
            ServerUnreachable::class.java,
        ) { runBlocking { open { Thread.yield() }.streamGuides("t", GuidePosition()).toList() } }
    }

    @Test
    fun `statuses are errors that say what to do`() {
        val transport = open()
        val meanings =
            mapOf(
                Status.UNAUTHENTICATED to NotEnrolled::class.java,
                Status.FAILED_PRECONDITION to ProtocolMismatch::class.java,
                Status.INVALID_ARGUMENT to ServerRefused::class.java,
            )
        for ((status, meaning) in meanings) {
            cloud.answer = { throw StatusException(status.withDescription("because\n of this")) }
            val error = assertThrows(CooperLLMError::class.java) { checkIn(transport) }
            assertSame(meaning, error.javaClass)
            assertTrue(error.message, "because of this: " in error.message.orEmpty())
        }
        assertEquals(meanings.size, cloud.calls)
        var answers = 0
        cloud.answer = { if (answers++ == 0) throw StatusException(Status.DEADLINE_EXCEEDED) else World.retry() }
        assertEquals(World.retry(), checkIn(transport)) // the service ended it by this device's own deadline
    }

    private companion object {
        const val CHUNKS = 6
        const val CHUNK_BYTES = 100L
        const val MOST_MS = 10_000L
        const val PAUSE_MS = 20L
    }
}
