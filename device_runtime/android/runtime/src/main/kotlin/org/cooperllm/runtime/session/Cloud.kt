package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.flow.Flow
import org.cooperllm.protos.Ack
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.CheckInRequest
import org.cooperllm.protos.EnrollReply
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.Report
import java.io.Closeable
import java.io.File
import javax.net.ssl.SSLSocketFactory

/** The cloud, as a session sees it. */
internal interface Cloud : Closeable {
    val traffic: Traffic

    suspend fun enroll(): EnrollReply

    suspend fun checkIn(request: CheckInRequest): CheckInReply

    suspend fun sendReport(report: Report): Ack

    suspend fun fetch(
        sha256: String,
        sizeBytes: Long?,
        target: File,
        mostBytes: Long,
    )

    /**
     * The chunks of a task's guides from a position on, until the last, once each; with them those of the adapter version
     * that is called [version], where that is not empty.
     */
    fun streamGuides(
        taskId: String,
        start: GuidePosition,
        version: ByteString = ByteString.EMPTY,
    ): Flow<GuideChunk>
}

/**
 * Where a service is, and how it is spoken to.
 *
 * @property server HOST:PORT of gRPC
 * @property artifactsUrl overrides what the service says about HTTP; empty: what it says
 * @property tls whether everything is encrypted
 * @property sockets makes TLS sockets, where a private authority replaces the system's roots
 * @property token for services that ask for one
 * @property name free text for operators, at most 64 characters
 */
public class ServiceAddress(
    public val server: String,
    public val artifactsUrl: String = "",
    public val tls: Boolean = true,
    public val sockets: SSLSocketFactory? = null,
    public val token: String = "",
    public val name: String = "",
)
