package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import com.google.protobuf.MessageLite
import io.grpc.ManagedChannel
import io.grpc.Metadata
import io.grpc.StatusException
import io.grpc.okhttp.OkHttpChannelBuilder
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.catch
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.map
import org.cooperllm.protos.Ack
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.CheckInRequest
import org.cooperllm.protos.EnrollReply
import org.cooperllm.protos.EnrollRequest
import org.cooperllm.protos.FederationGrpcKt.FederationCoroutineStub
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.Report
import org.cooperllm.protos.StreamGuidesRequest
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.ProtocolMismatch
import org.cooperllm.runtime.zo.toHex
import java.io.File
import java.security.MessageDigest
import java.util.concurrent.TimeUnit

/**
 * The calls of federation.proto from a device's side: signed, with deadlines, repeated while repeating can help.
 *
 * Nothing here knows what a task means. Every byte of the protocol that enters or leaves is counted in [traffic].
 *
 * Raises, from every call, ServerUnreachable (try again later), NotEnrolled (set the clock, enroll again), ServerRefused
 * (do not repeat), and what federation.proto lists.
 */
internal class Transport(
    private val address: ServiceAddress,
    private val signer: Signer,
    private val retry: Retry = Retry(),
    private val deadlineMs: Long = 30_000,
    private val timeMs: () -> Long = System::currentTimeMillis,
) : Cloud {
    override val traffic = Traffic()

    /** Hex of the first 16 bytes of the public key's SHA-256. */
    private val clientId =
        MessageDigest
            .getInstance("SHA-256")
            .digest(signer.publicKey)
            .toHex()
            .take(CLIENT_DIGITS)
    private val host = address.server.substringBeforeLast(':', "")
    private val channel: ManagedChannel = open()
    private val stub = FederationCoroutineStub(channel)
    private var downloads: Downloads? = null

    override fun close() {
        channel.shutdownNow()
    }

    override suspend fun enroll(): EnrollReply {
        val request =
            EnrollRequest
                .newBuilder()
                .setPublicKey(ByteString.copyFrom(signer.publicKey))
                .setDeviceName(address.name.take(MOST_NAME_CHARACTERS))
                .setEnrollmentToken(address.token)
                .build()
        val reply = call("Enroll", request) { it.enroll(request) }
        if (reply.protocolVersion != PROTOCOL_VERSION) {
            throw ProtocolMismatch(
                "the service speaks protocol ${reply.protocolVersion}, this app $PROTOCOL_VERSION: update the older one",
            )
        }
        val scheme = if (address.tls) "https" else "http"
        val url = address.artifactsUrl.ifEmpty { reply.artifactsUrl }.ifEmpty { "$scheme://$host:$DEFAULT_HTTP_PORT" }
        downloads = Downloads(url, ::headersOf, retry, traffic, deadlineMs.toInt(), address.sockets)
        return reply
    }

    override suspend fun checkIn(request: CheckInRequest): CheckInReply =
        call("CheckIn", request) { it.checkIn(request, signed("CheckIn", request)) }

    override suspend fun sendReport(report: Report): Ack =
        call("SendReport", report) { it.sendReport(report, signed("SendReport", report)) }

    override suspend fun fetch(
        sha256: String,
        sizeBytes: Long?,
        target: File,
        mostBytes: Long,
    ) {
        if (downloads == null) enroll()
        val beforeBytes = traffic.downlinkBytes
        val startedMs = retry.clockMs()
        checkNotNull(downloads) { "enroll sets it" }.fetch(sha256, sizeBytes, target, mostBytes)
        measure(beforeBytes, startedMs)
    }

    override fun streamGuides(
        taskId: String,
        start: GuidePosition,
        version: ByteString,
    ): Flow<GuideChunk> =
        flow {
            var position = start
            var isComplete = false
            val speed = LinkSpeed(retry.clockMs)
            while (!isComplete) {
                // One more stream, from the first byte that is missing.
                retry.run(address.server) {
                    channel.resetConnectBackoff()
                    val first = position
                    try {
                        speed.began()
                        arriving(open(taskId, first, version), speed).collect { next ->
                            if (isComplete) return@collect // more than the last: nobody asked for it
                            val chunk = next.getOrThrow()
                            position = chunk.end()
                            isComplete = chunk.last
                            emit(chunk)
                        }
                    } catch (error: StatusException) {
                        // A stream that brought something is followed by another with fresh patience.
                        val meaning = Statuses.meaningOf("StreamGuides", error.status, timedOut = true)
                        if (meaning !is Transient || (position == first && !isComplete)) throw meaning
                    }
                    if (!isComplete && position == first) throw Transient("the stream of guides ended early")
                }
            }
        }

    /**
     * What a stream brings, and at last why it broke, if it did.
     *
     * A few chunks may wait here: the time that is spent on them is not the link's, and a break behind them takes none
     * of them away.
     */
    private fun arriving(
        stream: Flow<GuideChunk>,
        speed: LinkSpeed,
    ): Flow<Result<GuideChunk>> =
        stream
            .map { chunk ->
                traffic.received(chunk.serializedSize.toLong())
                speed.arrived(chunk)
                if (speed.bytesPerS > 0) traffic.downloadBytesPerS = speed.bytesPerS
                Result.success(chunk)
            }.catch { emit(Result.failure(it)) }
            .buffer(WAITING_CHUNKS)

    private fun GuideChunk.end() = GuidePosition(segment, guide, offsetBytes + data.size())

    // --- one call -----------------------------------------------------------------------------------------------------

    private fun open(): ManagedChannel {
        val port = address.server.substringAfterLast(':').toIntOrNull()
        if (host.isEmpty() || port == null || port !in 1..MOST_PORT) {
            throw OptionError("'${address.server}' is no address of a service: write HOST:PORT")
        }
        val builder = OkHttpChannelBuilder.forAddress(host, port)
        if (!address.tls) builder.usePlaintext()
        if (address.tls && address.sockets != null) builder.sslSocketFactory(address.sockets)
        builder.flowControlWindow(WINDOW_BYTES)
        // A connection that has died without a sign, say with a network that the phone has left, is noticed while a
        // call waits. An answer may have to come behind all that a slow link still carries.
        builder.keepAliveTime(deadlineMs, TimeUnit.MILLISECONDS).keepAliveTimeout(2 * deadlineMs, TimeUnit.MILLISECONDS)
        // The pauses that matter are Retry's.
        return builder.maxInboundMessageSize(MOST_MESSAGE_BYTES).disableRetry().build()
    }

    private fun open(
        taskId: String,
        start: GuidePosition,
        version: ByteString,
    ): Flow<GuideChunk> {
        val request =
            StreamGuidesRequest
                .newBuilder()
                .setTaskId(taskId)
                .setFirstSegment(start.segment)
                .setFirstGuide(start.guide)
                .setFirstByte(start.byte)
                .setVersion(version)
                .build()
        traffic.sent(request.serializedSize.toLong())
        val patient = stub.withDeadlineAfter(STREAM_DEADLINES * deadlineMs, TimeUnit.MILLISECONDS)
        return patient.streamGuides(request, signed("StreamGuides", request))
    }

    /** Repeats a call until it is answered; every repetition is signed anew, for its own time. */
    private suspend fun <T : MessageLite> call(
        method: String,
        request: MessageLite,
        call: suspend (FederationCoroutineStub) -> T,
    ): T {
        val reply =
            retry.run(address.server) {
                val startedMs = retry.clockMs()
                // Otherwise the channel would not look again for up to two minutes, whatever Retry does meanwhile.
                channel.resetConnectBackoff()
                traffic.sent(request.serializedSize.toLong())
                try {
                    call(stub.withDeadlineAfter(deadlineMs, TimeUnit.MILLISECONDS))
                } catch (error: StatusException) {
                    throw Statuses.meaningOf(method, error.status, retry.clockMs() - startedMs >= deadlineMs)
                }
            }
        traffic.received(reply.serializedSize.toLong())
        return reply
    }

    private fun signed(
        method: String,
        request: MessageLite,
    ): Metadata {
        val now = timeMs()
        val data = "$SERVICE$method\n$now\n".toByteArray() + request.toByteArray()
        val metadata = Metadata()
        for ((name, value) in signature(now, signer.sign(data))) {
            metadata.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value)
        }
        return metadata
    }

    private fun headersOf(path: String): Map<String, String> {
        val now = timeMs()
        return signature(now, signer.sign("GET $path\n$now\n".toByteArray()))
    }

    private fun signature(
        timeMs: Long,
        signature: ByteArray,
    ) = mapOf(
        "cooperllm-client" to clientId,
        "cooperllm-time-ms" to timeMs.toString(),
        "cooperllm-signature" to signature.toHex(),
    )

    /** Keeps the speed of the last download that was large enough to tell. */
    private fun measure(
        beforeBytes: Long,
        startedMs: Double,
    ) {
        val sizeBytes = traffic.downlinkBytes - beforeBytes
        val tookMs = retry.clockMs() - startedMs
        if (sizeBytes >= LEAST_MEASURED_BYTES && tookMs > 0) traffic.downloadBytesPerS = sizeBytes / (tookMs / 1000)
    }

    companion object {
        const val PROTOCOL_VERSION: Int = 1
        private const val SERVICE = "/cooperllm.v1.Federation/"
        private const val DEFAULT_HTTP_PORT = 8080
        private const val MOST_PORT = 65535
        private const val MOST_MESSAGE_BYTES = 4 * 1024 * 1024
        private const val MOST_NAME_CHARACTERS = 64
        private const val CLIENT_DIGITS = 32
        private const val STREAM_DEADLINES = 10
        private const val LEAST_MEASURED_BYTES = 64 * 1024

        /** Of at most 16 KiB each. */
        private const val WAITING_CHUNKS = 8

        /**
         * What a stream may have under way: as much is lost when the link breaks, and held in the cloud while it stalls.
         * Enough for 30 Mbit/s over 70 ms; OkHttp's own 64 KiB are not.
         */
        private const val WINDOW_BYTES = 256 * 1024
    }
}
