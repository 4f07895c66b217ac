package org.cooperllm.runtime.bundle

import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.bundle.JsonFields.Companion.AGAIN
import org.cooperllm.runtime.zo.FloatVector
import java.io.EOFException
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * A .safetensors file: the size of a JSON header (8 bytes, little-endian), the header, then the tensors' bytes.
 *
 * The header names each tensor's type, shape and place; places follow each other without gaps to the file's end. All of
 * that is checked before any memory is taken for values, which are therefore never more than the file has.
 *
 * Raises BundleError for anything else: the caller refuses the file.
 */
internal class Safetensors private constructor(
    private val file: File,
    private val dataOffset: Long,
    val tensors: Map<String, Entry>,
) {
    /** One tensor: [begin] and [end] are bytes after the header. */
    class Entry(
        val type: String,
        val shape: List<Long>,
        val begin: Long,
        val end: Long,
    ) {
        /** Whether it holds float32 values of this shape. */
        fun isFloat32(expected: IntArray): Boolean = type == FLOAT32 && shape == expected.map { it.toLong() }
    }

    /** Copies a float32 tensor to [target] from index [at] on. */
    fun read(
        name: String,
        target: FloatVector,
        at: Int,
    ) {
        val entry = tensors.getValue(name)
        val count = ((entry.end - entry.begin) / Float.SIZE_BYTES).toInt()
        val bytes = ByteArray(Float.SIZE_BYTES * minOf(CHUNK, count))
        val floats = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        val values = FloatArray(bytes.size / Float.SIZE_BYTES)
        reading(file) { input ->
            input.seek(dataOffset + entry.begin)
            var done = 0
            while (done < count) {
                val size = minOf(values.size, count - done)
                input.readFully(bytes, 0, Float.SIZE_BYTES * size)
                floats.rewind()
                floats.get(values, 0, size)
                target.write(at + done, values, size)
                done += size
            }
        }
    }

    companion object {
        private const val FLOAT32 = "F32"
        private const val CHUNK = 16384
        private const val LENGTH_BYTES = 8
        private const val MOST_HEADER_BYTES = 16L shl 20
        private const val METADATA = "__metadata__"

        /** Bytes of one value of each type that a tensor may have. */
        private val TYPE_BYTES =
            mapOf(
                "BOOL" to 1L,
                "U8" to 1L,
                "I8" to 1L,
                "I16" to 2L,
                "U16" to 2L,
                "F16" to 2L,
                "BF16" to 2L,
                "I32" to 4L,
                "U32" to 4L,
                FLOAT32 to 4L,
                "F64" to 8L,
                "I64" to 8L,
                "U64" to 8L,
            )

        /** Reads and checks the header. */
        fun open(file: File): Safetensors =
            reading(file) { input ->
                val lengthBytes = ByteArray(LENGTH_BYTES)
                input.readFully(lengthBytes)
                val size = ByteBuffer.wrap(lengthBytes).order(ByteOrder.LITTLE_ENDIAN).getLong()
                val left = input.length() - LENGTH_BYTES
                if (size !in 0..minOf(left, MOST_HEADER_BYTES)) throw fault(file)
                val header = ByteArray(size.toInt())
                input.readFully(header)
                val tensors = entriesOf(JsonFields.parse(header, file.path))
                checkPlaces(file, tensors, left - size)
                Safetensors(file, LENGTH_BYTES + size, tensors)
            }

        private fun entriesOf(fields: JsonFields): Map<String, Entry> =
            (fields.names - METADATA).associateWith { name ->
                val entry = fields.message(name).only("dtype", "shape", "data_offsets")
                val place = entry.longs("data_offsets")
                Entry(entry.text("dtype"), entry.longs("shape"), place.getOrElse(0) { -1 }, place.getOrElse(1) { -1 })
            }

        private fun checkPlaces(
            file: File,
            tensors: Map<String, Entry>,
            dataBytes: Long,
        ) {
            var expected = 0L
            for (entry in tensors.values.sortedWith(compareBy({ it.begin }, { it.end }))) {
                if (entry.begin != expected || entry.end != expected + sizeBytes(file, entry, dataBytes)) {
                    throw fault(file)
                }
                expected = entry.end
            }
            if (expected != dataBytes) throw fault(file)
        }

        private fun sizeBytes(
            file: File,
            entry: Entry,
            mostBytes: Long,
        ): Long {
            if (entry.shape.any { it == 0L }) return 0
            var bytes = TYPE_BYTES[entry.type] ?: throw fault(file)
            for (size in entry.shape) {
                if (size > mostBytes / bytes) throw fault(file)
                bytes *= size
            }
            return bytes
        }

        private inline fun <T> reading(
            file: File,
            action: (RandomAccessFile) -> T,
        ): T =
            try {
                RandomAccessFile(file, "r").use(action)
            } catch (error: EOFException) {
                throw BundleError("$file: truncated; $AGAIN", error)
            } catch (error: IOException) {
                throw BundleError("$file: ${error.message}; $AGAIN", error)
            }

        private fun fault(file: File): BundleError = BundleError("$file: not a readable safetensors file; $AGAIN")
    }
}
