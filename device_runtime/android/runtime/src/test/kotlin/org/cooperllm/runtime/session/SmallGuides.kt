package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.protos.GuideTerm
import org.cooperllm.runtime.zo.Layout
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import kotlin.random.Random

/** Two guides on the first two segments of a layout, as a cloud announces and streams them. */
internal class SmallGuides(
    private val layout: Layout,
) {
    val announced = listOf(announced(1), announced(2))

    private fun announced(number: Int): Guide =
        Guide
            .newBuilder()
            .setSha256(ByteString.copyFrom(ByteArray(32) { number.toByte() }))
            .addAllSegments(listOf(0, 1))
            .build()

    fun values(
        guide: Int,
        segment: Int,
    ): FloatArray {
        val random = Random(10 * guide + segment)
        return FloatArray(layout.segmentCount(segment)) { random.nextFloat() - 0.5f }
    }

    fun bytes(values: FloatArray): ByteArray {
        val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(values)
        return bytes.array()
    }

    /** All chunks, in the one order that there is. */
    fun chunks(): List<GuideChunk> {
        val all =
            (0..1).flatMap { segment ->
                announced.indices.flatMap { guide -> chunks(segment, guide, bytes(values(guide, segment))) }
            }
        return all.dropLast(1) +
            all
                .last()
                .toBuilder()
                .setLast(true)
                .build()
    }

    /** Those of one piece. */
    fun chunks(
        segment: Int,
        guide: Int,
        data: ByteArray,
    ): List<GuideChunk> =
        (data.indices step CHUNK_BYTES).map { start ->
            GuideChunk
                .newBuilder()
                .setSegment(segment)
                .setGuide(guide)
                .setEncoding(GuideEncoding.GUIDE_ENCODING_FLOAT32)
                .setOffsetBytes(start.toLong())
                .setSegmentSizeBytes(data.size.toLong())
                .setSegmentSha256(ByteString.copyFrom(MessageDigest.getInstance("SHA-256").digest(data)))
                .setData(ByteString.copyFrom(data, start, minOf(CHUNK_BYTES, data.size - start)))
                .build()
        }

    /** Directions along both, or along others. */
    fun task(
        count: Int = 4,
        announced: List<Guide> = this.announced,
    ): DirectionsTask {
        val task = World.directions(count)
        val terms =
            announced.map {
                GuideTerm
                    .newBuilder()
                    .setGuideSha256(it.sha256)
                    .setCoefficient(0.5)
                    .build()
            }
        val step = task.getSteps(0)
        val direction = step.getDirections(0).toBuilder().addAllGuides(terms)
        return task
            .toBuilder()
            .addAllGuides(announced)
            .setSteps(0, step.toBuilder().setDirections(0, direction))
            .build()
    }

    private companion object {
        const val CHUNK_BYTES = 40
    }
}
