package org.cooperllm.runtime.bundle

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.BundleVersionError
import org.cooperllm.runtime.LayoutMismatch
import org.cooperllm.runtime.zo.toArray
import org.cooperllm.runtime.zo.toHex
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import java.util.Random

/** The bundle that Python wrote, believed only after every check; each kind of damage is one clear error. */
class BundleTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private lateinit var folder: File

    @Before
    fun copyBundle() {
        folder = GoldenBundle.copyTo(temporary.newFolder())
    }

    @Test
    fun `a bundle that Python wrote opens`() {
        val bundle = Bundle.open(folder)
        assertEquals(sha256(file("manifest.json").readBytes()), bundle.sha256)
        assertEquals(bundle.sha256, Bundle.open(folder, bundle.sha256).sha256)
        val manifest = bundle.manifest
        assertEquals(listOf("left", "right", "up"), manifest.task.classNames)
        assertEquals("fp32", manifest.precision)
        assertEquals(2, manifest.chain.segments)
        assertTrue(manifest.chain.hasDynamicTokens)
        assertEquals(4, manifest.text.padToMultipleTokens)
        assertEquals(bundle.layout.parameters, bundle.adapter.count)
        assertTrue(bundle.adapter.toArray().all { it != 0f })
        assertEquals(file("program.pte").length(), manifest.files.getValue(BundlePart.PROGRAM).sizeBytes)
        assertEquals(file("tokenizer.json"), bundle.file(BundlePart.TOKENIZER))
        refused<BundleError>("SHA-256") { Bundle.open(folder, "0".repeat(64)) }
    }

    @Test
    fun `a file that is missing, cut or altered`() {
        for (name in listOf("program.pte", "adapter.safetensors", "tokenizer.json", "manifest.json")) {
            val whole = file(name).readBytes()
            file(name).delete()
            refused<BundleError>(name)
            if (name != "manifest.json") {
                file(name).writeBytes(whole.copyOf(whole.size - 1))
                refused<BundleError>("bytes, the manifest says")
                file(name).writeBytes(whole.copyOf().also { it[it.size - 1] = (it[it.size - 1] + 1).toByte() })
                refused<BundleError>("altered")
            }
            file(name).writeBytes(whole)
        }
        Bundle.open(folder)
    }

    @Test
    fun `what is no manifest, or one of another format`() {
        val deep = "[".repeat(100_000)
        for (text in listOf(
            "",
            "{",
            "[]",
            "3",
            "{\"format_version\": 1, \"surprise\": 2}",
            deep,
            "{\"a\":$deep",
            "\uD800",
        )) {
            file("manifest.json").writeText(text)
            refused<BundleError>("manifest.json")
        }
        file("manifest.json").writeBytes(byteArrayOf('{'.code.toByte(), '"'.code.toByte(), -1))
        refused<BundleError>("UTF-8")
        for (version in listOf(JsonPrimitive(0), JsonPrimitive(2), JsonPrimitive("x"), JsonNull)) {
            GoldenBundle.copyTo(folder)
            change { it + ("format_version" to version) + ("what_a_later_format_has" to JsonPrimitive(1)) }
            refused<BundleVersionError>("update the app")
        }
    }

    @Test
    fun `names that lead out of the bundle`() {
        for (name in listOf("../adapter", "/etc/passwd", "..", ".", "", "a\\b", "manifest.json", "a\u0000")) {
            change {
                inside(it, "files") { files ->
                    inside(files, "adapter") { entry ->
                        entry +
                            ("name" to JsonPrimitive(name))
                    }
                }
            }
            refused<BundleError>("names no usable file")
        }
    }

    @Test
    fun `rules and types that make no sense`() {
        val huge = JsonPrimitive(1L shl 40)
        for ((place, field, value) in listOf(
            Triple("text", "max_tokens", JsonPrimitive(0)),
            Triple("text", "max_tokens", huge),
            Triple("text", "max_tokens", JsonPrimitive("many")),
            Triple("text", "pad_to_multiple_tokens", JsonPrimitive(0)),
            Triple("text", "padding_side", JsonPrimitive("up")),
            Triple("text", "padding_side", JsonPrimitive(1)),
            Triple("chain", "batch_examples", JsonPrimitive(0)),
            Triple("chain", "segments", JsonPrimitive(-1)),
            Triple("chain", "dynamic_tokens", JsonPrimitive("true")),
            Triple("chain", "vocabulary", JsonPrimitive(3)),
            Triple("chain", "methods", JsonPrimitive(3)),
            Triple("task", "class_names", JsonArray(listOf(JsonPrimitive("one")))),
            Triple("task", "class_names", JsonArray(listOf(JsonNull, JsonNull))),
            Triple("adapter", "frozen", JsonArray(listOf(JsonObject(emptyMap())))),
            Triple("fidelity", "points", JsonArray(listOf(JsonObject(emptyMap())))),
        )) {
            GoldenBundle.copyTo(folder)
            change { inside(it, place) { fields -> fields + (field to value) } }
            refused<BundleError>("manifest.json")
        }
    }

    @Test
    fun `a layout that is not the one it hashes`() {
        for ((field, value) in listOf("sha256" to JsonPrimitive("0".repeat(64)), "parameters" to JsonPrimitive(3))) {
            GoldenBundle.copyTo(folder)
            change { inside(it, "layout") { layout -> layout + (field to value) } }
            refused<LayoutMismatch>("layout")
        }
        for ((field, value) in listOf("grid_exponent" to 19, "grid_exponent" to 1000, "offset" to 1, "segment" to 3)) {
            GoldenBundle.copyTo(folder)
            change { inside(it, "layout") { layout -> withFirstTensor(layout, field, value) } }
            refused<LayoutMismatch>("")
        }
    }

    @Test
    fun `an adapter that is off its grid, or no safetensors file`() {
        val good = file("adapter.safetensors").readBytes()
        val nan =
            good.copyOf().also {
                ByteBuffer
                    .wrap(
                        it,
                    ).order(ByteOrder.LITTLE_ENDIAN)
                    .putInt(it.size - 4, 0x7fc00000)
            }
        refuseAdapter<LayoutMismatch>(nan, "NaN")
        val minusZero = good.copyOf().also { it.fill(0, it.size - 4).also { _ -> it[it.size - 1] = -128 } }
        refuseAdapter<LayoutMismatch>(minusZero, "-0.0")
        val renamed = String(good, Charsets.ISO_8859_1).replaceFirst("bias", "bia5").toByteArray(Charsets.ISO_8859_1)
        refuseAdapter<LayoutMismatch>(renamed, "not those of the layout")
        val half = String(good, Charsets.ISO_8859_1).replaceFirst("F32", "F16").toByteArray(Charsets.ISO_8859_1)
        refuseAdapter<BundleError>(half, "safetensors")
        refuseAdapter<BundleError>(good.copyOf(7), "truncated")
        refuseAdapter<BundleError>(ByteArray(8) { -1 }, "safetensors")
        refuseAdapter<BundleError>(good + 0, "safetensors")
        refuseAdapter<BundleError>(good.copyOf(good.size - 4), "safetensors")
    }

    /** Whatever bytes come, there is an answer of our own: an adapter, or a BundleError. */
    @Test
    fun `random damage to manifest and header`() {
        val random = Random(11)
        val name = file("adapter.safetensors")
        val adapter = name.readBytes()
        val manifest = file("manifest.json").readBytes()
        val layout = Bundle.open(folder).layout
        repeat(60) {
            name.writeBytes(adapter.copyOf().also { it[random.nextInt(400)] = random.nextInt().toByte() })
            answers { Bundle.readAdapter(name, layout) }
        }
        repeat(1000) {
            val damaged = manifest.copyOf()
            repeat(3) { damaged[random.nextInt(damaged.size)] = random.nextInt().toByte() }
            answers { ManifestReader("here").read(damaged) }
            answers { ManifestReader("here").read(manifest.copyOf(random.nextInt(manifest.size))) }
        }
    }

    private fun answers(action: () -> Unit) {
        try {
            action()
        } catch (_: BundleError) {
            // The one error that may come.
        }
    }

    private inline fun <reified E : Throwable> refused(
        text: String,
        noinline action: () -> Unit = { Bundle.open(folder) },
    ) {
        val error = assertThrows(E::class.java, action)
        assertTrue("$error", error.message.orEmpty().contains(text) && '\n' !in error.message.orEmpty())
    }

    private inline fun <reified E : Throwable> refuseAdapter(
        bytes: ByteArray,
        text: String,
    ) {
        file("adapter.safetensors").writeBytes(bytes)
        change { manifest ->
            inside(manifest, "files") { files ->
                inside(files, "adapter") {
                    it + ("size_bytes" to JsonPrimitive(bytes.size)) +
                        ("sha256" to JsonPrimitive(sha256(bytes)))
                }
            }
        }
        refused<E>(text)
    }

    private fun change(change: (Map<String, JsonElement>) -> Map<String, JsonElement>) {
        val fields = Json.parseToJsonElement(file("manifest.json").readText()).jsonObject
        file("manifest.json").writeText(JsonObject(change(fields)).toString())
    }

    private fun inside(
        fields: Map<String, JsonElement>,
        name: String,
        change: (Map<String, JsonElement>) -> Map<String, JsonElement>,
    ): Map<String, JsonElement> = fields + (name to JsonObject(change(fields[name]?.jsonObject.orEmpty())))

    private fun withFirstTensor(
        layout: Map<String, JsonElement>,
        field: String,
        value: Int,
    ): Map<String, JsonElement> {
        val tensors = layout.getValue("tensors").jsonArray
        val first = JsonObject(tensors[0].jsonObject + (field to JsonPrimitive(value)))
        return layout + ("tensors" to JsonArray(listOf(first) + tensors.drop(1)))
    }

    private fun file(name: String) = File(folder, name)

    private fun sha256(bytes: ByteArray): String = MessageDigest.getInstance("SHA-256").digest(bytes).toHex()
}
