package org.cooperllm.runtime.zo

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The golden files of all languages: see tests/golden/README.md. */
internal class Golden(
    name: String,
    folder: File = File(System.getProperty("golden.dir")),
) {
    private val arrays: ByteBuffer
    val cases: List<GoldenCase>

    init {
        val binary = File(folder, "$name.bin")
        val bytes = if (binary.exists()) binary.readBytes() else ByteArray(0)
        arrays = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
        val text = Json.parseToJsonElement(File(folder, "$name.json").readText()).jsonObject
        cases = text.getValue("cases").jsonArray.map { GoldenCase(it.jsonObject, arrays) }
    }
}

/** One case; a field that is an array of numbers lies in the binary file. */
internal class GoldenCase(
    private val fields: JsonObject,
    private val arrays: ByteBuffer,
) {
    operator fun contains(name: String): Boolean = name in fields

    operator fun get(name: String): JsonElement = fields.getValue(name)

    fun has(name: String): Boolean = name in fields && fields[name] != JsonNull

    fun text(name: String): String = get(name).jsonPrimitive.content

    fun int(name: String): Int = get(name).jsonPrimitive.int

    fun double(name: String): Double = get(name).jsonPrimitive.double

    /** A 64-bit number in hexadecimal. */
    fun long(name: String): Long = java.lang.Long.parseUnsignedLong(text(name).removePrefix("0x"), 16)

    fun list(name: String): List<GoldenCase> = get(name).jsonArray.map { GoldenCase(it.jsonObject, arrays) }

    /** A case within. */
    fun case(name: String): GoldenCase = GoldenCase(get(name).jsonObject, arrays)

    /** Lists of cases within a list. */
    fun lists(name: String): List<List<GoldenCase>> =
        get(name).jsonArray.map { inner -> inner.jsonArray.map { GoldenCase(it.jsonObject, arrays) } }

    fun longs(name: String): List<Long> = get(name).jsonArray.map { it.jsonPrimitive.long }

    fun doubleList(name: String): DoubleArray = get(name).jsonArray.map { it.jsonPrimitive.double }.toDoubleArray()

    fun floats(name: String): FloatArray =
        place(name, "float32").let { (at, count) -> FloatArray(count) { arrays.getFloat(at + 4 * it) } }

    fun doubles(name: String): DoubleArray =
        place(name, "float64").let { (at, count) -> DoubleArray(count) { arrays.getDouble(at + 8 * it) } }

    fun ints(name: String): IntArray =
        place(name, "int32").let { (at, count) -> IntArray(count) { arrays.getInt(at + 4 * it) } }

    fun bytes(
        name: String,
        type: String,
    ): ByteArray = place(name, type).let { (at, count) -> ByteArray(count) { arrays.get(at + it) } }

    fun halfWords(name: String): IntArray =
        place(name, "uint16").let { (at, count) ->
            IntArray(count) { arrays.getShort(at + 2 * it).toInt() and 0xFFFF }
        }

    private fun place(
        name: String,
        type: String,
    ): Pair<Int, Int> {
        val reference = get(name).jsonObject
        check(reference.getValue("type").jsonPrimitive.content == type) { "$name is not $type" }
        val offsetBytes = reference.getValue("offset_bytes").jsonPrimitive.int
        return offsetBytes to reference.getValue("count").jsonPrimitive.int
    }
}

/** Bits, so that zeros of both signs and NaN compare as what they are. */
internal fun FloatArray.bits(): List<Int> = map { it.toRawBits() }

internal fun DoubleArray.bits(): List<Long> = map { it.toRawBits() }

/** All values of a vector. */
internal fun FloatVector.toArray(): FloatArray = FloatArray(count).also { read(0, it, count) }
