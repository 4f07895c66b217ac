package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.GuideCode
import org.cooperllm.runtime.zo.Layout
import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** A guide's values by segment. */
internal typealias Slices = Map<Int, FloatVector>

/** One encoded segment of one guide, whole and as its hash says; [guide] is the guide's name. */
internal class Piece(
    val guide: ByteString,
    val segment: Int,
    val encoding: Int,
    val data: ByteArray,
)

/** A byte of a task's guides: [guide] is a position in the task's list, [byte] one of that guide's encoded segment. */
internal data class GuidePosition(
    val segment: Int = 0,
    val guide: Int = 0,
    val byte: Long = 0,
)

/**
 * Guides as they arrive: chunks in, encoded segments out, each checked before anything uses it.
 *
 * A guide is zero outside its segments. Segments come in ascending order, at each of them one guide after the other, each
 * piece with a hash of its own: so work on a segment can start while the next one is on the wire. What [isHere] already
 * need not arrive. The adapter version of their task may come the same way, as if it were the first guide: what has the
 * name [version] among those announced.
 *
 * Raises UnsupportedTask at once when a guide names segments that this adapter does not have, or two have one name.
 */
internal class GuideAssembly(
    announced: List<Guide>,
    private val layout: Layout,
    private val version: ByteString = ByteString.EMPTY,
    isHere: (guide: ByteString, segment: Int) -> Boolean = { _, _ -> false },
) {
    private val names = announced.map { it.sha256 }
    private val missing = ArrayDeque<GuidePosition>()
    private var first: GuideChunk? = null // of the piece that is arriving
    private val data = ByteArrayOutputStream()

    /** Whether every piece is here. */
    val isComplete: Boolean get() = missing.isEmpty()

    /** The first byte that is missing. */
    val position: GuidePosition
        get() = missing.firstOrNull()?.copy(byte = data.size().toLong()) ?: GuidePosition()

    init {
        if (names.distinct().size < names.size) throw UnsupportedTask("two guides have the same name: correct the task")
        announced.forEach(::check)
        val all = announced.flatMapIndexed { number, guide -> guide.segmentsList.map { GuidePosition(it, number) } }
        missing += all.sortedBy { it.segment }.filterNot { isHere(names[it.guide], it.segment) } // the sort is stable
    }

    /** How many pieces have yet to arrive, by segment. */
    fun missingPieces(): Map<Int, Int> = missing.groupingBy { it.segment }.eachCount()

    /** Forgets what is here of the piece that is arriving. */
    fun drop() {
        first = null
        data.reset()
    }

    /**
     * Takes one chunk; answers the piece that it completes, if it does.
     *
     * Raises ArtifactError when it contradicts the task, the chunk before or its hash (stream the piece again) and
     * UnsupportedTask for an encoding that this release does not know.
     */
    fun add(chunk: GuideChunk): Piece? {
        val expected = missing.firstOrNull()
        if (expected == null || chunk.segment != expected.segment || chunk.guide != expected.guide) {
            throw ArtifactError("a chunk arrived that was not asked for: stream the guides again")
        }
        check(first ?: chunk, chunk)
        first = first ?: chunk
        chunk.data.writeTo(data)
        if (data.size() < chunk.segmentSizeBytes) return null
        val whole = data.toByteArray()
        drop()
        if (!MessageDigest.getInstance("SHA-256").digest(whole).contentEquals(chunk.segmentSha256.toByteArray())) {
            throw ArtifactError("a segment of a guide arrived altered: stream the guides again")
        }
        missing.removeFirst()
        return Piece(names[expected.guide], expected.segment, chunk.encodingValue, whole)
    }

    private fun check(guide: Guide) {
        val segments = guide.segmentsList
        val isAscending = segments.zipWithNext().all { (first, second) -> first < second }
        if (guide.sha256.size() != NAME_BYTES || segments.isEmpty() || !isAscending) {
            throw UnsupportedTask("a guide needs a name of 32 bytes and ascending segments: correct the task")
        }
        if (segments.any { layout.segmentCount(it) == 0 }) {
            throw UnsupportedTask("a guide names a segment without parameters: correct the task")
        }
    }

    private fun check(
        first: GuideChunk,
        chunk: GuideChunk,
    ) {
        val sizeBytes = chunk.segmentSizeBytes
        val wholeBytes = FLOAT_BYTES * layout.segmentCount(chunk.segment)
        if (chunk.encodingValue !in if (names[chunk.guide] == version) OF_VERSIONS else OF_GUIDES) {
            throw UnsupportedTask("guide encoding ${chunk.encodingValue} is not known here: update the app")
        }
        val isPlain = chunk.encoding == GuideEncoding.GUIDE_ENCODING_FLOAT32
        val fits = if (isPlain) sizeBytes == wholeBytes else sizeBytes in 1..wholeBytes + MOST_HEADER_BYTES
        val isSame =
            first.encoding == chunk.encoding && first.segmentSizeBytes == sizeBytes &&
                first.segmentSha256 == chunk.segmentSha256
        val follows = chunk.offsetBytes == data.size().toLong() && !chunk.data.isEmpty
        if (!(fits && isSame && follows && data.size() + chunk.data.size().toLong() <= sizeBytes)) {
            throw ArtifactError("the chunks of a guide do not fit together: stream the guides again")
        }
    }

    companion object {
        private const val NAME_BYTES = 32
        private const val FLOAT_BYTES = 4L
        private const val MOST_AT_ONCE = 4096

        /** By which a coded segment may be larger than its float32 values. */
        private const val MOST_HEADER_BYTES = 4096
        private val OF_GUIDES =
            setOf(GuideEncoding.GUIDE_ENCODING_FLOAT32_VALUE, GuideEncoding.GUIDE_ENCODING_CODED_VALUE)
        private val OF_VERSIONS =
            setOf(GuideEncoding.GUIDE_ENCODING_STEPS_VALUE, GuideEncoding.GUIDE_ENCODING_WHOLE_STEPS_VALUE)

        /**
         * Raises as [decode] where a guide's piece of [count] parameters cannot be decoded. A version's are checked as
         * they enter the adapter.
         */
        fun check(
            piece: Piece,
            count: Int,
        ) {
            if (piece.encoding !in OF_VERSIONS) decode(piece.encoding, piece.data, count, into = null)
        }

        /**
         * Writes the values of an encoded segment of [count] parameters to [into]; with null, only checks them.
         *
         * Raises BadArtifact when it is damaged, not finite, or of an encoding that is no guide's.
         */
        fun decode(
            encoding: Int,
            data: ByteArray,
            count: Int,
            into: FloatVector?,
        ) {
            if (encoding == GuideEncoding.GUIDE_ENCODING_CODED_VALUE) return GuideCode.decode(data, count, into)
            val floats = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            val isPlain = encoding == GuideEncoding.GUIDE_ENCODING_FLOAT32_VALUE
            var isGood = isPlain && data.size.toLong() == FLOAT_BYTES * count
            val present = if (isGood) count else 0
            val values = FloatArray(minOf(MOST_AT_ONCE, count))
            for (start in 0 until present step MOST_AT_ONCE) {
                val size = minOf(values.size, count - start)
                floats.get(values, 0, size)
                for (i in 0 until size) if (!values[i].isFinite()) isGood = false
                into?.write(start, values, size)
            }
            if (!isGood) throw BadArtifact("a guide has NaN, infinity, or a wrong size or encoding: send another")
        }
    }
}
