package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.zo.AdapterVersion
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Golden

/** Version 2 of the golden bundle's adapter, as a cloud announces it and streams it along with [guides]. */
internal class SmallVersion(
    private val guides: SmallGuides,
    name: String = "all move",
) {
    private val case = Golden("pieces").cases.first { it.text("name") == name }
    private val sha256 = ByteString.copyFrom(AdapterVersion.sha256(FloatVector.of(case.floats("after"))))

    /** Version 1. */
    val before: FloatArray = case.floats("before")
    val after: FloatArray = case.floats("after")
    val segments: List<Int> = case.list("pieces").map { it.int("segment") }

    /** What the update in the stream is called. */
    fun name(isWhole: Boolean = false): ByteString = ByteString.copyFrom(ByteArray(32) { if (isWhole) 8 else 9 })

    fun streamed(
        isWhole: Boolean = false,
        name: ByteString = name(isWhole),
        segments: List<Int> = this.segments,
    ): VersionUpdate {
        val announced = Guide.newBuilder().setSha256(name).addAllSegments(segments)
        return update().setStreamed(announced).build()
    }

    fun byDelta(cloud: FakeCloud): VersionUpdate = update().setDelta(cloud.serve(case.bytes("delta", "uint8"))).build()

    private fun update(): VersionUpdate.Builder =
        VersionUpdate
            .newBuilder()
            .setVersion(2)
            .setAdapterSha256(sha256)
            .setFromVersion(1)

    /** All chunks, the guides' among them: steps from version 1, or the version itself. [alter] is done to pieces. */
    fun chunks(
        isWhole: Boolean = false,
        alter: (ByteArray) -> ByteArray = { it },
    ): List<GuideChunk> {
        val encoding =
            if (isWhole) GuideEncoding.GUIDE_ENCODING_WHOLE_STEPS else GuideEncoding.GUIDE_ENCODING_STEPS
        val own =
            case.list("pieces").flatMap { piece ->
                val data = alter(piece.bytes(if (isWhole) "whole" else "steps", "uint8"))
                guides.chunks(piece.int("segment"), 0, data).map { it.toBuilder().setEncoding(encoding).build() }
            }
        val others = guides.chunks().map { it.toBuilder().setGuide(it.guide + 1).build() }
        return (own + others).sortedWith(compareBy({ it.segment }, { it.guide })) // the sort is stable
    }
}
