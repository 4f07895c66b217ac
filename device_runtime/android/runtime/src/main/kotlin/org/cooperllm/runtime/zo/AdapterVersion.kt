package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import java.util.zip.DataFormatException
import java.util.zip.Inflater

/**
 * From one adapter version to the next by a delta of grid steps. A delta is, little-endian:
 *
 *     bytes  0..7    magic "CLMDELTA"
 *     bytes  8..11   format, uint32: 1
 *     bytes 12..15   n, uint32
 *     bytes 16..47   SHA-256 of the adapter's float32 bytes before
 *     bytes 48..79   SHA-256 of the adapter's float32 bytes after
 *     bytes 80..     zlib (RFC 1950) of 4 n bytes: four planes of n bytes; plane p holds byte p of every zigzag
 *
 * difference = (after - before) * 2^e is an int32, zigzag(d) = (d << 1) ^ (d >> 31) as uint32.
 */
internal object AdapterVersion {
    private val MAGIC = "CLMDELTA".toByteArray()
    private const val FORMAT = 1
    private const val HASH_BYTES = 32
    private const val HEADER_BYTES = 80
    private const val PLANES = 4
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
     * Never unpacks more than 4 n bytes, whatever the delta claims.
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
        val planes = unpack(delta, layout.parameters)
        val after = FloatVector.allocate(layout.parameters)
        for (tensor in layout.tensors) move(held, after, tensor, planes)
        if (!sha256(after).contentEquals(afterSha256)) {
            throw BadArtifact("a delta does not lead to the adapter it names: fetch a snapshot")
        }
        held.copyFrom(after)
    }

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

    private fun unpack(
        delta: ByteArray,
        parameters: Int,
    ): ByteArray {
        val planes = ByteArray(Math.multiplyExact(PLANES, parameters))
        val inflater = Inflater()
        try {
            inflater.setInput(delta, HEADER_BYTES, delta.size - HEADER_BYTES)
            var filled = 0
            while (filled < planes.size) {
                val count = inflater.inflate(planes, filled, planes.size - filled)
                if (count == 0) break
                filled += count
            }
            // The stream must end here; a longer one is noticed without being unpacked.
            val isLonger = inflater.inflate(ByteArray(1)) > 0
            if (filled < planes.size || isLonger || !inflater.finished() || inflater.remaining > 0) {
                throw BadArtifact("a delta does not unpack to its parameters: fetch it again")
            }
        } catch (error: DataFormatException) {
            throw BadArtifact("a delta cannot be unpacked: fetch it again", error)
        } finally {
            inflater.end()
        }
        return planes
    }

    private fun move(
        before: FloatVector,
        after: FloatVector,
        tensor: LayoutTensor,
        planes: ByteArray,
    ) {
        val stepsPerUnit = Grid.powerOfTwo(tensor.exponent)
        val unit = Grid.powerOfTwo(-tensor.exponent)
        val values = FloatArray(minOf(CHUNK, tensor.count))
        var start = tensor.offset
        while (start < tensor.end) {
            val count = minOf(values.size, tensor.end - start)
            before.read(start, values, count)
            for (i in 0 until count) {
                val steps = values[i].toDouble() * stepsPerUnit + difference(planes, start + i)
                if (Math.abs(steps) >= Grid.STEPS) {
                    throw BadArtifact("a delta leads ${tensor.name} out of its range: fetch a snapshot")
                }
                values[i] = (steps * unit + 0.0).toFloat()
            }
            after.write(start, values, count)
            start += count
        }
    }

    /** The step of parameter [index]. A zigzag is unsigned: both its shift and its sign go by that. */
    private fun difference(
        planes: ByteArray,
        index: Int,
    ): Int {
        val parameters = planes.size / PLANES
        var zigzag = 0
        for (plane in 0 until PLANES) {
            zigzag = zigzag or (planes[plane * parameters + index].toInt() and 0xFF shl 8 * plane)
        }
        return (zigzag ushr 1) xor -(zigzag and 1)
    }
}
