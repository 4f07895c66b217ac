package org.cooperllm.runtime.update

import org.cooperllm.runtime.store.Durable
import org.cooperllm.runtime.zo.FloatVector
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Files

/**
 * Room for one hidden state of every token of a set of examples: [InMemory] or [InFile].
 *
 * Which of the two it is depends on sizes alone, so the bits of a state never depend on what came before it.
 */
internal interface StateStore : Closeable {
    /** Copies the states of [tokens] tokens from token [first] on, width values each, to the beginning of [into]. */
    fun read(
        first: Int,
        tokens: Int,
        into: FloatArray,
    )

    /** Replaces the states of [tokens] tokens from token [first] on. */
    fun write(
        first: Int,
        tokens: Int,
        states: FloatArray,
    )
}

/** float32, beside the heap where the system has such memory. */
internal class InMemory(
    tokens: Int,
    private val width: Int,
) : StateStore {
    private var states = FloatVector.allocate(tokens * width)

    override fun read(
        first: Int,
        tokens: Int,
        into: FloatArray,
    ) = states.read(first * width, into, tokens * width)

    override fun write(
        first: Int,
        tokens: Int,
        states: FloatArray,
    ) = this.states.write(first * width, states, tokens * width)

    override fun close() {
        states = FloatVector.allocate(0)
    }
}

/**
 * float16, in a file of [folder] that has no name: nobody else can open it, it is gone when it is closed or when the
 * process ends, however that ends, and no later process can take half of it for states.
 *
 * A token whose values go beyond the range of float16 is divided by a power of two, which is kept beside it, so that
 * none becomes infinite: the form of the Python device's file, bit for bit.
 *
 * Raises IOException when there is no room for all of it: better now than in the middle of a task. Every function that
 * touches it raises StoreFull or StoreError.
 */
internal class InFile(
    tokens: Int,
    private val width: Int,
    private val folder: File,
) : StateStore {
    private val exponents: ByteArray
    private val file: RandomAccessFile
    private var bytes = ByteBuffer.allocate(0)

    init {
        val sizeBytes = tokens.toLong() * HALF_BYTES * width
        if (folder.usableSpace < sizeBytes) throw IOException("no space left for $sizeBytes bytes of hidden states")
        exponents = ByteArray(tokens)
        // A crash before the next line leaves a name with this ending, which the store removes.
        val path = Files.createTempFile(folder.toPath(), "states", Durable.TEMPORARY)
        try {
            file = RandomAccessFile(path.toFile(), "rw")
        } finally {
            Files.delete(path)
        }
    }

    override fun read(
        first: Int,
        tokens: Int,
        into: FloatArray,
    ) {
        val buffer = buffer(tokens)
        moving("read") {
            file.seek(placeOf(first))
            file.readFully(buffer.array(), 0, tokens * width * HALF_BYTES)
        }
        for (token in 0 until tokens) {
            val exponent = exponents[first + token].toInt()
            for (i in token * width until (token + 1) * width) {
                into[i] = Math.scalb(HalfFloats.fromBits(buffer.getShort(HALF_BYTES * i).toInt() and 0xFFFF), exponent)
            }
        }
    }

    override fun write(
        first: Int,
        tokens: Int,
        states: FloatArray,
    ) {
        val buffer = buffer(tokens)
        for (token in 0 until tokens) {
            val exponent = exponentOf(states, token * width)
            exponents[first + token] = exponent.toByte()
            for (i in token * width until (token + 1) * width) {
                buffer.putShort(HALF_BYTES * i, HalfFloats.toBits(Math.scalb(states[i], -exponent)).toShort())
            }
        }
        moving("write") {
            file.seek(placeOf(first))
            file.write(buffer.array(), 0, tokens * width * HALF_BYTES)
        }
    }

    override fun close() = file.close()

    /** 0, or for a token with larger values what brings the largest below 2^15. What is not finite stays so. */
    private fun exponentOf(
        states: FloatArray,
        from: Int,
    ): Int {
        var largest = 0f
        for (i in from until from + width) largest = Math.max(largest, Math.abs(states[i]))
        return if (largest.isFinite() && largest > HalfFloats.MOST) Math.getExponent(largest) - MOST_EXPONENT else 0
    }

    private fun placeOf(token: Int): Long = token.toLong() * HALF_BYTES * width

    private fun buffer(tokens: Int): ByteBuffer {
        val sizeBytes = tokens * width * HALF_BYTES
        if (bytes.capacity() < sizeBytes) bytes = ByteBuffer.allocate(sizeBytes).order(ByteOrder.LITTLE_ENDIAN)
        return bytes
    }

    private inline fun moving(
        action: String,
        move: () -> Unit,
    ) = try {
        move()
    } catch (error: IOException) {
        throw Durable.storeError(error, folder, action)
    }

    private companion object {
        const val HALF_BYTES = 2
        const val MOST_EXPONENT = 14
    }
}
