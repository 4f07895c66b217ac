package org.cooperllm.runtime.session

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What was personalised: a difference d, of as many float32 values as the adapter has, on the same grid.
 *
 *     theta_private = clip(theta_shared + d)        exact in float32; clip: one grid step inside the bound
 *
 * whatever version is held when it is used: so a new version brings what others taught, and d what this device's own
 * examples did. With another bundle d means nothing and is as good as absent.
 *
 * @property sharedSha256 hex, of the shared adapter that it grew from
 * @property steps taken in all
 */
internal class Personal(
    val bundleSha256: String,
    val sharedSha256: String,
    val steps: Int,
    val difference: FloatArray,
) {
    /** One line of JSON, then the difference as little-endian float32: byte for byte as the Python device. */
    fun toBytes(): ByteArray {
        val hashes = "\"bundle_sha256\": \"$bundleSha256\", \"shared_sha256\": \"$sharedSha256\""
        val line = "{$hashes, \"steps\": $steps}\n".toByteArray()
        val bytes = ByteBuffer.allocate(line.size + Float.SIZE_BYTES * difference.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.put(line)
        for (value in difference) bytes.putFloat(value)
        return bytes.array()
    }

    /** Puts the private adapter where the shared one is. */
    fun applyTo(
        adapter: FloatVector,
        layout: Layout,
    ) {
        val values = FloatArray(adapter.count).also { adapter.read(0, it, it.size) }
        for (tensor in layout.tensors) {
            val most = Math.scalb(MOST_STEPS, -tensor.exponent)
            for (i in tensor.offset until tensor.offset + tensor.count) {
                // Never -0.0.
                values[i] = ((values[i].toDouble() + difference[i]).coerceIn(-most, most) + 0.0).toFloat()
            }
        }
        adapter.write(0, values, values.size)
    }

    companion object {
        private const val MOST_STEPS = 8_388_607.0 // 2^23 - 1
        private const val LINE_END = '\n'.code.toByte()

        /** Null where there is nothing, or it is of another bundle. */
        fun fromBytes(
            data: ByteArray?,
            bundleSha256: String,
            layout: Layout,
        ): Personal? {
            val end = data?.indexOf(LINE_END) ?: return null
            if (end < 0 || data.size - end - 1 != Float.SIZE_BYTES * layout.parameters) return null
            val fields = Json.parseToJsonElement(data.decodeToString(0, end)).jsonObject

            fun text(name: String) = fields[name]?.jsonPrimitive?.content.orEmpty()
            if (text("bundle_sha256") != bundleSha256) return null
            val values = ByteBuffer.wrap(data, end + 1, data.size - end - 1).order(ByteOrder.LITTLE_ENDIAN)
            val difference = FloatArray(layout.parameters).also { values.asFloatBuffer().get(it) }
            return Personal(bundleSha256, text("shared_sha256"), fields["steps"]?.jsonPrimitive?.int ?: 0, difference)
        }
    }
}
