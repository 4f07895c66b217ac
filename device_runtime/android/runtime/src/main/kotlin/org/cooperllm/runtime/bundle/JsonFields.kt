package org.cooperllm.runtime.bundle

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.cooperllm.runtime.BundleError
import java.nio.charset.CharacterCodingException

/**
 * A message in proto3's JSON form, read field by field with the type that the field has.
 *
 * As in protobuf's own reader, an absent or null field has its default (0, "", false, nothing), 64-bit numbers may be
 * strings, and [only] refuses fields that the message has not.
 *
 * Raises BundleError, beginning with [where], for any other type or a number out of range: the caller refuses the file.
 */
internal class JsonFields(
    private val fields: JsonObject,
    private val where: String,
) {
    /** The names of all fields that are there. */
    val names: Set<String> get() = fields.keys

    /** Refuses every field but these. Returns itself. */
    fun only(vararg known: String): JsonFields {
        val unknown = fields.keys.firstOrNull { it !in known } ?: return this
        throw BundleError("$where: has a field ${unknown.take(SHOWN)} that this release does not know; $AGAIN")
    }

    fun has(name: String): Boolean = present(name) != null

    fun text(name: String): String = present(name)?.let { textOf(it, name) }.orEmpty()

    fun texts(name: String): List<String> = array(name).map { textOf(it, name) }

    /** A uint32 that an index or size in memory can be. */
    fun int(name: String): Int = present(name)?.let { wholeOf(it, name, 0, MOST_INT).toInt() } ?: 0

    fun ints(name: String): IntArray = array(name).map { wholeOf(it, name, 0, MOST_INT).toInt() }.toIntArray()

    fun signedInt(name: String): Int = present(name)?.let { wholeOf(it, name, -MOST_INT, MOST_INT).toInt() } ?: 0

    /** A uint64 of at most 2^63 - 1. */
    fun long(name: String): Long = present(name)?.let { wholeOf(it, name, 0, Long.MAX_VALUE) } ?: 0L

    /** Numbers in order; what each of them is was not said by a message, but by a file format. */
    fun longs(name: String): List<Long> = array(name).map { wholeOf(it, name, 0, Long.MAX_VALUE) }

    fun double(name: String): Double {
        val element = present(name) ?: return 0.0
        return primitive(element, name).content.toDoubleOrNull() ?: throw fault(name)
    }

    fun flag(name: String): Boolean {
        val element = primitive(present(name) ?: return false, name)
        if (element.isString) throw fault(name)
        return element.content.toBooleanStrictOrNull() ?: throw fault(name)
    }

    /** A message; one without fields where it is absent. */
    fun message(name: String): JsonFields = messageOf(present(name) ?: JsonObject(emptyMap()), name)

    fun messages(name: String): List<JsonFields> = array(name).map { messageOf(it, name) }

    private fun present(name: String): JsonElement? = fields[name].takeUnless { it is JsonNull }

    private fun array(name: String): List<JsonElement> {
        val element = present(name) ?: return emptyList()
        return element as? JsonArray ?: throw fault(name)
    }

    private fun messageOf(
        element: JsonElement,
        name: String,
    ): JsonFields = JsonFields(element as? JsonObject ?: throw fault(name), where)

    private fun textOf(
        element: JsonElement,
        name: String,
    ): String = primitive(element, name).takeIf { it.isString }?.content ?: throw fault(name)

    private fun wholeOf(
        element: JsonElement,
        name: String,
        least: Long,
        most: Long,
    ): Long = primitive(element, name).content.toLongOrNull()?.takeIf { it in least..most } ?: throw fault(name)

    private fun primitive(
        element: JsonElement,
        name: String,
    ): JsonPrimitive = (element as? JsonPrimitive).takeUnless { it is JsonNull } ?: throw fault(name)

    private fun fault(name: String): BundleError = BundleError("$where: its field $name makes no sense; $AGAIN")

    companion object {
        /** What every refusal of a bundle ends with. */
        const val AGAIN: String = "fetch or export the bundle again"
        private const val MOST_INT = Int.MAX_VALUE.toLong()
        private const val SHOWN = 40
        private const val MOST_DEPTH = 64

        /** The object in UTF-8 [bytes]. Raises BundleError when they are no JSON or no object. */
        fun parse(
            bytes: ByteArray,
            where: String,
        ): JsonFields {
            val element =
                try {
                    if (depth(bytes) > MOST_DEPTH) throw BundleError("$where: nested too deeply; $AGAIN")
                    Json.parseToJsonElement(bytes.decodeToString(throwOnInvalidSequence = true))
                } catch (error: SerializationException) {
                    throw BundleError("$where: no JSON; $AGAIN", error)
                } catch (error: CharacterCodingException) {
                    throw BundleError("$where: no UTF-8; $AGAIN", error)
                }
            return JsonFields(element as? JsonObject ?: throw BundleError("$where: no JSON object; $AGAIN"), where)
        }

        /** How deep arrays and objects lie in each other: the parser recurses, and a stack has an end. */
        private fun depth(bytes: ByteArray): Int {
            var depth = 0
            var deepest = 0
            var isText = false
            var isEscaped = false
            for (byte in bytes) {
                val character = byte.toInt().toChar()
                when {
                    isEscaped -> isEscaped = false
                    isText && character == '\\' -> isEscaped = true
                    character == '"' -> isText = !isText
                    isText -> Unit
                    character == '[' || character == '{' -> deepest = maxOf(deepest, ++depth)
                    character == ']' || character == '}' -> depth--
                }
            }
            return deepest
        }
    }
}
