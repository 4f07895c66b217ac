package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/**
 * From one adapter version to the next by a delta of grid steps. A delta is, little-endian:
 *
 *     bytes  0..7    magic "CLMDELTA"
 *     bytes  8..11   format, uint32: 2
 *     bytes 12..15   n, uint32
 *     bytes 16..47   SHA-256 of the adapter's float32 bytes before
 *     bytes 48..79   SHA-256 of the adapter's float32 bytes after
 *     bytes 80..     the stream (see [IntegerDecoder]) of the n differences, int32, in the layout's order
 *
 * difference = (after - before) * 2^e, a whole number of magnitude below 2^24.
 *
 * A version that arrives segment by segment has a piece for each: the stream of that segment's differences alone, or of
 * its after * 2^e, which needs no adapter before.
 */
internal object AdapterVersion {
    private val MAGIC = "CLMDELTA".toByteArray()
    private const val FORMAT = 2
    private const val HASH_BYTES = 32
    private const val HEADER_BYTES = 80
    private const val CHUNK = 4096

    /** The SHA-256 of the adapter's little-endian float32 bytes: 32 raw bytes. */
    fun sha256(adapter: FloatVector): ByteArray {
        val digest = MessageDigest.getInstance("SHA-256")
        val values = FloatArray(minOf(CHUNK, adapter.count))
        val bytes = ByteBuffer.allocate(Float.SIZE_BYTES * values.size).order(ByteOrder.LITTLE_ENDIAN)
        var done = 0
        while (done < adapter.count) {
            val count = minOf(values.size, adapter.count - done)
            adapter.read(done, values, count)
            for (i in 0 until count) bytes.putFloat(Float.SIZE_BYTES * i, values[i])
            digest.update(bytes.array(), 0, Float.SIZE_BYTES * count)
            done += count
        }
        return digest.digest()
    }

    /**
     * Replaces the adapter [held] by the version that a delta leads to.
     *
     * What is held depends on the layout alone, whatever the delta claims.
     *
     * Raises BadArtifact when the delta is damaged or made for another adapter, with [held] as it was: the caller
     * fetches a snapshot.
     */
    fun applyDelta(
        delta: ByteArray,
        held: FloatVector,
        layout: Layout,
    ) {
        val afterSha256 = checkHeader(delta, held, layout)
        val differences = GuideCode.integers(delta, HEADER_BYTES, layout.parameters)
        val after = FloatVector.allocate(layout.parameters)
        for (tensor in layout.tensors) move(held, Stepped(after, differences), tensor)
        if (!sha256(after).contentEquals(afterSha256)) {
            throw BadArtifact("a delta does not lead to the adapter it names: fetch a snapshot")
        }
        held.copyFrom(after)
    }

    /**
     * The values of a segment after a piece of it. [before] is the whole adapter, or null for a piece of the segment
     * itself.
     *
     * Raises BadArtifact when the piece is damaged: the caller streams it again. Whether it leads to the right adapter is
     * for the whole's SHA-256 to say.
     */
    fun decodePiece(
        piece: ByteArray,
        before: FloatVector?,
        layout: Layout,
        segment: Int,
    ): FloatVector {
        val count = layout.segmentCount(segment)
        val after =
            Stepped(FloatVector.allocate(count), GuideCode.integers(piece, 0, count), layout.segmentOffset(segment))
        for (tensor in layout.segmentTensors(segment)) move(before, after, tensor)
        return after.values
    }

    /** What becomes of the parameters from [first] on, and the grid steps that lead there. */
    private class Stepped(
        val values: FloatVector,
        val steps: IntArray,
        val first: Int = 0,
    )

    private fun checkHeader(
        delta: ByteArray,
        held: FloatVector,
        layout: Layout,
    ): ByteArray {
        if (delta.size < HEADER_BYTES) throw BadArtifact("a delta is truncated: fetch it again")
        val header = ByteBuffer.wrap(delta).order(ByteOrder.LITTLE_ENDIAN)
        if (!delta.copyOf(MAGIC.size).contentEquals(MAGIC) || header.getInt(MAGIC.size) != FORMAT) {
            throw BadArtifact("this is no delta that this release reads: update it, or fetch a snapshot")
        }
        val parameters = Integer.toUnsignedString(header.getInt(MAGIC.size + Int.SIZE_BYTES))
        if (parameters != layout.parameters.toString() || held.count != layout.parameters) {
            throw BadArtifact("a delta has $parameters parameters, not ${layout.parameters}: fetch a snapshot")
        }
        val before = delta.copyOfRange(HEADER_BYTES - 2 * HASH_BYTES, HEADER_BYTES - HASH_BYTES)
        if (!before.contentEquals(sha256(held))) {
            throw BadArtifact("a delta starts from another adapter than the one held: fetch a snapshot")
        }
        return delta.copyOfRange(HEADER_BYTES - HASH_BYTES, HEADER_BYTES)
    }

    private fun move(
        before: FloatVector?,
        after: Stepped,
        tensor: LayoutTensor,
    ) {
        val stepsPerUnit = Grid.powerOfTwo(tensor.exponent)
        val unit = Grid.powerOfTwo(-tensor.exponent)
        val values = FloatArray(minOf(CHUNK, tensor.count))
        var start = tensor.offset
        while (start < tensor.end) {
            val count = minOf(values.size, tensor.end - start)
            if (before == null) values.fill(0f) else before.read(start, values, count)
            for (i in 0 until count) {
                val steps = values[i].toDouble() * stepsPerUnit + after.steps[start - after.first + i]
                if (Math.abs(steps) >= Grid.STEPS) {
                    throw BadArtifact("a version leads ${tensor.name} out of its range: fetch a snapshot")
                }
                values[i] = (steps * unit + 0.0).toFloat()
            }
            after.values.write(start - after.first, values, count)
            start += count
        }
    }
}
