package org.cooperllm.runtime.zo

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/**
 * Float32 values in direct, native-order memory: the adapter, the scale, a guide's slice.
 *
 * Direct memory is what a program reads without a copy. Kernels move it through small arrays, chunk by chunk, because
 * a bulk move is a plain copy on every virtual machine, while a single get may cost several calls on a phone's.
 * One thread at a time: the place that a copy starts from is kept inside.
 */
internal class FloatVector(
    buffer: FloatBuffer,
) {
    /** All values, from position 0 to [count]. Its position and limit must stay as they are. */
    val buffer: FloatBuffer

    private val cursor: FloatBuffer

    init {
        require(buffer.isDirect && buffer.order() == ByteOrder.nativeOrder()) { "a direct, native-order buffer" }
        this.buffer = buffer.slice()
        cursor = buffer.slice()
    }

    /** The number of values. */
    val count: Int get() = buffer.capacity()

    /** Copies [count] values from index [from] on to the beginning of [into]. */
    fun read(
        from: Int,
        into: FloatArray,
        count: Int,
    ) {
        moveTo(from)
        cursor.get(into, 0, count)
    }

    /** Copies the first [count] values of [values] to index [at] on. */
    fun write(
        at: Int,
        values: FloatArray,
        count: Int,
    ) {
        moveTo(at)
        cursor.put(values, 0, count)
    }

    /** Takes over all values of another vector of the same length. */
    fun copyFrom(other: FloatVector) {
        require(other.count == count) { "vectors of one length" }
        moveTo(0)
        other.moveTo(0)
        cursor.put(other.cursor)
    }

    /** Exchanges all values with another vector of the same length, without room for a third. */
    fun swapWith(other: FloatVector) {
        require(other.count == count) { "vectors of one length" }
        val mine = FloatArray(minOf(SWAPPED, count))
        val theirs = FloatArray(mine.size)
        for (start in 0 until count step SWAPPED) {
            val size = minOf(SWAPPED, count - start)
            read(start, mine, size)
            other.read(start, theirs, size)
            write(start, theirs, size)
            other.write(start, mine, size)
        }
    }

    /** A copy of its own. */
    fun copy(): FloatVector = allocate(count).also { it.copyFrom(this) }

    /** A view of [count] values from index [from] on, exactly as long as a tensor that is made of it must be. */
    fun view(
        from: Int,
        count: Int,
    ): FloatBuffer {
        val view = buffer.duplicate()
        view.position(from).limit(from + count)
        return view.slice()
    }

    private fun moveTo(index: Int) {
        cursor.position(index)
    }

    companion object {
        /** Readable memory behind the last value: vector instructions of a program may read over a tensor's end. */
        private const val SPARE_BYTES = 128
        private const val FLOAT_BYTES = 4

        /** Values exchanged at once. */
        private const val SWAPPED = 4096

        /** Zeros. */
        fun allocate(count: Int): FloatVector {
            require(count in 0..(Int.MAX_VALUE - SPARE_BYTES) / FLOAT_BYTES) { "at most 2^29 values" }
            val bytes = ByteBuffer.allocateDirect(FLOAT_BYTES * count + SPARE_BYTES).order(ByteOrder.nativeOrder())
            val floats = bytes.asFloatBuffer()
            floats.limit(count)
            return FloatVector(floats)
        }

        /** A copy of an array. */
        fun of(values: FloatArray): FloatVector = allocate(values.size).also { it.write(0, values, values.size) }
    }
}
