package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.flow.Flow
import org.cooperllm.protos.Ack
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.CheckInRequest
import org.cooperllm.protos.EnrollReply
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.Report
import org.cooperllm.runtime.OptionError
import java.io.File

/** In the place of a cloud, for a device that only uses what it holds. Every call is a mistake: it raises OptionError. */
internal class Offline : Cloud {
    override val traffic = Traffic()

    override suspend fun enroll(): EnrollReply = refuse()

    override suspend fun checkIn(request: CheckInRequest): CheckInReply = refuse()

    override suspend fun sendReport(report: Report): Ack = refuse()

    override suspend fun fetch(
        sha256: String,
        sizeBytes: Long?,
        target: File,
        mostBytes: Long,
    ): Unit = refuse()

    override fun streamGuides(
        taskId: String,
        start: GuidePosition,
        version: ByteString,
    ): Flow<GuideChunk> = refuse()

    override fun close() = Unit

    private fun refuse(): Nothing =
        throw OptionError(
            "this device was given no address: give one to take part, or to fetch what is missing",
        )
}
