package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Decoding one segment of a guide, and arrays of integers. An encoded segment is, little-endian:
 *
 *     byte  0        format: 1
 *     bytes 1..3     int8: where in their cells the values of magnitude 1, 2 and 3 or more lie, in 1/128 steps
 *     bytes 4..7     m, uint32
 *     bytes 8..11    step, float32, finite and positive
 *     bytes 12..     the stream of the m integers q (see [IntegerDecoder])
 *
 *     decoded value = float32((128 |q| + cell of |q|) * (step / 128)) * sign(q),   +0.0 where q = 0
 *
 * Every factor is exact in float64, and their product is rounded twice: the same bits in all languages.
 */
internal object GuideCode {
    private const val FORMAT = 1
    private const val HEADER_BYTES = 12
    private const val CELLS = 3
    private const val PARTS = 128
    private const val COUNT_AT = 4
    private const val STEP_AT = 8

    /**
     * Writes the [count] values of an encoded segment to [into]; with null, only checks them. What is held depends on
     * neither.
     *
     * Raises BadArtifact when it is damaged, of another format or of another number of values: the caller drops it and
     * fetches it again.
     */
    fun decode(
        data: ByteArray,
        count: Int,
        into: FloatVector?,
    ) {
        val header = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)
        if (data.size < HEADER_BYTES) throw BadArtifact("an encoded guide is truncated: fetch it again")
        if (data[0].toInt() != FORMAT) {
            throw BadArtifact("guide format ${data[0].toInt() and 0xFF} is not known here: update the app")
        }
        if (header.getInt(COUNT_AT) != count) {
            val named = Integer.toUnsignedString(header.getInt(COUNT_AT))
            throw BadArtifact("an encoded guide has $named values, not $count: fetch it again")
        }
        val step = header.getFloat(STEP_AT)
        if (!(step > 0) || !step.isFinite()) {
            throw BadArtifact("an encoded guide has no positive step: fetch it again")
        }
        decode(data, count, step.toDouble() / PARTS, into)
    }

    private fun decode(
        data: ByteArray,
        count: Int,
        unit: Double,
        into: FloatVector?,
    ) {
        val cells = IntArray(CELLS + 1) { if (it == 0) 0 else data[it].toInt() }
        val values = FloatArray(minOf(IntegerDecoder.CHUNK, count))
        var isFinite = true
        decode(data, HEADER_BYTES, count) { start, chunk, decoder ->
            values.fill(0f, 0, chunk)
            for (i in 0 until decoder.found) {
                val whole = decoder.value(i)
                val magnitude = Math.abs(whole.toLong())
                val parts = PARTS * magnitude + cells[if (magnitude < CELLS) magnitude.toInt() else CELLS]
                val value = (parts * unit).toFloat()
                if (value > Float.MAX_VALUE) isFinite = false
                values[decoder.place(i)] = if (whole < 0) -value else value
            }
            into?.write(start, values, chunk)
        }
        if (!isFinite) throw BadArtifact("an encoded guide has values that are not finite: fetch it again")
    }

    /**
     * The [count] integers of the stream that [data] holds from index [from] on. What is held depends on [count] alone.
     *
     * Raises BadArtifact when the stream is damaged, truncated or longer than its entries: the caller fetches it again.
     */
    fun integers(
        data: ByteArray,
        from: Int,
        count: Int,
    ): IntArray {
        val values = IntArray(count)
        decode(data, from, count) { start, _, decoder ->
            for (i in 0 until decoder.found) values[start + decoder.place(i)] = decoder.value(i)
        }
        return values
    }

    /** Hands every chunk of a stream to [take], with its first entry and its length. */
    private inline fun decode(
        data: ByteArray,
        from: Int,
        count: Int,
        take: (start: Int, chunk: Int, decoder: IntegerDecoder) -> Unit,
    ) {
        if (count == 0 && data.size == from) return
        val decoder = IntegerDecoder(data, from)
        var start = 0
        while (start < count) {
            val chunk = minOf(IntegerDecoder.CHUNK, count - start)
            if (!decoder.next(chunk)) throw damaged()
            take(start, chunk, decoder)
            start += chunk
        }
        if (!decoder.isComplete()) throw damaged()
    }

    private fun damaged() = BadArtifact("a coded stream is damaged or truncated: fetch it again")
}
