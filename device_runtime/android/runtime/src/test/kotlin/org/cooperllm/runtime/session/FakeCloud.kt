package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.asFlow
import kotlinx.coroutines.flow.map
import org.cooperllm.protos.Ack
import org.cooperllm.protos.Artifact
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.CheckInRequest
import org.cooperllm.protos.EnrollReply
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.Report
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.store.Durable
import java.io.File

/** A cloud that answers from a script: for sessions without a network. Every call costs 10 bytes up and 100 down. */
internal class FakeCloud : Cloud {
    override val traffic = Traffic()
    val replies = ArrayDeque<CheckInReply>()

    /** Raised instead of the next acknowledgement. */
    var refusal: Exception? = null

    /** Raised instead of the next answers to check-ins. */
    val refusals = ArrayDeque<Exception>()
    val artifacts = mutableMapOf<String, ByteArray>()
    val chunks = mutableListOf<GuideChunk>()

    /** Where streams of guides began. */
    val starts = mutableListOf<GuidePosition>()

    /** The versions that were to come with each of them. */
    val versions = mutableListOf<ByteString>()

    /** Hears of a download before it ends. */
    var onFetch: () -> Unit = {}

    /** What becomes of a chunk on its way; may raise. */
    var alter: (GuideChunk) -> GuideChunk = { it }
    val checkIns = mutableListOf<CheckInRequest>()
    val reports = mutableListOf<Report>()
    var enrolled = 0

    /** Makes bytes an artifact. */
    fun serve(data: ByteArray): Artifact {
        val sha256 = Durable.sha256(data)
        artifacts[sha256] = data
        return Artifact
            .newBuilder()
            .setSha256(ByteString.copyFrom(hexBytes(sha256)))
            .setSizeBytes(data.size.toLong())
            .build()
    }

    override suspend fun enroll(): EnrollReply {
        count()
        enrolled++
        return EnrollReply.getDefaultInstance()
    }

    override suspend fun checkIn(request: CheckInRequest): CheckInReply {
        count()
        checkIns += request
        refusals.removeFirstOrNull()?.let { throw it }
        return replies.removeFirst()
    }

    override suspend fun sendReport(report: Report): Ack {
        count()
        refusal?.let {
            refusal = null
            throw it
        }
        reports += report
        return Ack.getDefaultInstance()
    }

    override suspend fun fetch(
        sha256: String,
        sizeBytes: Long?,
        target: File,
        mostBytes: Long,
    ) {
        count()
        val data = artifacts[sha256] ?: throw ServerRefused("no artifact $sha256")
        if (data.size > mostBytes) throw ArtifactError("too large")
        onFetch()
        target.writeBytes(data)
    }

    override fun streamGuides(
        taskId: String,
        start: GuidePosition,
        version: ByteString,
    ): Flow<GuideChunk> {
        count()
        starts += start
        versions += version
        return chunks.filter { !it.isBefore(start) }.asFlow().map { alter(it) }
    }

    override fun close() = Unit

    private fun GuideChunk.isBefore(start: GuidePosition): Boolean =
        compareBy<GuidePosition>({ it.segment }, { it.guide }, { it.byte })
            .compare(GuidePosition(segment, guide, offsetBytes), start) < 0

    private fun count() {
        traffic.received(100)
        traffic.sent(10)
    }
}
