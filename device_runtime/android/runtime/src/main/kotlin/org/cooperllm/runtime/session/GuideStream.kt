package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** A guide's values by segment. */
internal typealias Slices = Map<Int, FloatVector>

/**
 * Guides as they arrive: chunks in, float32 slices of segments out, each checked before anything uses it.
 *
 * A guide's SHA-256 is that of its segments' decoded float32 bytes, in order of segment; each segment's encoded bytes
 * have a hash of their own.
 *
 * Raises UnsupportedTask at once when a guide names segments that this adapter does not have.
 */
internal class GuideStream(
    guides: List<Guide>,
    private val layout: Layout,
) {
    private val segments = guides.associate { it.sha256 to it.segmentsList.toList() }
    private val arriving = mutableMapOf<Pair<ByteString, Int>, Arriving>()
    private val bytes = mutableMapOf<Pair<ByteString, Int>, ByteArray>()

    private class Arriving(
        val sha256: ByteString,
    ) {
        val data = ByteArrayOutputStream()
    }

    init {
        for (guide in guides) {
            val named = guide.segmentsList
            val isAscending = named.zipWithNext().all { (first, second) -> first < second }
            if (guide.sha256.size() != HASH_BYTES || named.isEmpty() || !isAscending) {
                throw UnsupportedTask("a guide needs a SHA-256 and ascending segments: correct the task")
            }
            if (named.any { layout.segmentCount(it) == 0 }) {
                throw UnsupportedTask("a guide names a segment without parameters: correct the task")
            }
        }
    }

    /**
     * Takes one chunk.
     *
     * Raises ArtifactError when it contradicts the task or its hash (drop all, stream again) and UnsupportedTask for an
     * encoding that this release does not know.
     */
    fun add(chunk: GuideChunk) {
        if (chunk.segment !in segments[chunk.guideSha256].orEmpty()) {
            throw ArtifactError("a chunk of no guide of this task arrived: stream the guides again")
        }
        if (chunk.encoding != GuideEncoding.GUIDE_ENCODING_FLOAT32) {
            throw UnsupportedTask("guide encoding ${chunk.encodingValue} is not known here: update the app")
        }
        val key = chunk.guideSha256 to chunk.segment
        val segment = arriving.getOrPut(key) { Arriving(chunk.segmentSha256) }
        val sizeBytes = FLOAT_BYTES * layout.segmentCount(chunk.segment)
        val fits =
            chunk.offsetBytes == segment.data.size().toLong() && chunk.segmentSizeBytes == sizeBytes &&
                chunk.segmentSha256 == segment.sha256 && !chunk.data.isEmpty && key !in bytes
        if (!fits) throw ArtifactError("the chunks of a guide do not fit together: stream the guides again")
        if (segment.data.size() + chunk.data.size() > sizeBytes) {
            throw ArtifactError("a guide is larger than its segment: stream the guides again")
        }
        segment.data.write(chunk.data.toByteArray())
        if (segment.data.size() < sizeBytes) return
        val data = segment.data.toByteArray()
        if (!sha256(data).contentEquals(segment.sha256.toByteArray())) {
            throw ArtifactError("a segment of a guide arrived altered: stream the guides again")
        }
        decode(data, 0, data.size) // raises before anything is kept
        bytes[key] = data
        arriving.remove(key)
    }

    /** The decoded bytes of every guide, once all are in and have their hashes. Raises ArtifactError. */
    fun finish(): Map<ByteString, ByteArray> =
        segments.mapValues { (guide, named) ->
            val whole = ByteArrayOutputStream()
            for (segment in named) {
                val data =
                    bytes[guide to segment]
                        ?: throw ArtifactError("segments of a guide are missing: stream the guides again")
                whole.write(data)
            }
            val data = whole.toByteArray()
            if (!sha256(data).contentEquals(guide.toByteArray())) {
                throw ArtifactError("a guide is not the one that was announced: stream the guides again")
            }
            data
        }

    companion object {
        private const val HASH_BYTES = 32
        private const val FLOAT_BYTES = 4L

        /** The slices of a guide that was kept as its decoded bytes, or null when they are of other segments. */
        fun split(
            data: ByteArray,
            segments: List<Int>,
            layout: Layout,
        ): Slices? {
            val sizes = segments.map { FLOAT_BYTES * layout.segmentCount(it) }
            if (sizes.sum() != data.size.toLong()) return null
            var start = 0
            return segments.indices.associate { i ->
                val size = sizes[i].toInt()
                segments[i] to decode(data, start, size).also { start += size }
            }
        }

        /** Little-endian float32 bytes as values. Raises BadArtifact when one is not finite. */
        fun decode(
            data: ByteArray,
            from: Int,
            sizeBytes: Int,
        ): FloatVector {
            val values = FloatArray(sizeBytes / Float.SIZE_BYTES)
            ByteBuffer
                .wrap(data, from, sizeBytes)
                .order(ByteOrder.LITTLE_ENDIAN)
                .asFloatBuffer()
                .get(values)
            if (!values.all { it.isFinite() }) {
                throw BadArtifact("a guide contains NaN or infinity: send another")
            }
            return FloatVector.of(values)
        }

        private fun sha256(data: ByteArray) = MessageDigest.getInstance("SHA-256").digest(data)
    }
}
