package org.cooperllm.runtime.text

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer
import org.cooperllm.runtime.BundleError
import java.io.File

/**
 * Hugging Face's tokenizers, by DJL: the same native library that the Python device uses, so the same tokens.
 *
 * Raises BundleError when [file] is no tokenizer.json: fetch the bundle again.
 */
public class HuggingFaceTokens(
    file: File,
) : Tokenizer {
    private val tokenizer: HuggingFaceTokenizer =
        try {
            HuggingFaceTokenizer.newInstance(file.toPath(), OPTIONS)
        } catch (error: Exception) {
            // the library throws what it likes
            throw BundleError("$file: not a usable tokenizer; fetch or export the bundle again", error)
        }

    override fun encode(
        text: String,
        withSpecialTokens: Boolean,
    ): Tokens {
        val encoding = tokenizer.encode(text, withSpecialTokens, false)
        val special = encoding.specialTokenMask
        return Tokens(toInts(encoding.ids), toInts(encoding.wordIds), BooleanArray(special.size) { special[it] != 0L })
    }

    override fun close(): Unit = tokenizer.close()

    private fun toInts(values: LongArray) = IntArray(values.size) { values[it].toInt() }

    private companion object {
        /** What the file says of cutting and padding is not the manifest's. */
        val OPTIONS = mapOf("truncation" to "false", "padding" to "false")
    }
}
