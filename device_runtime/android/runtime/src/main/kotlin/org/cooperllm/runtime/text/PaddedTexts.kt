package org.cooperllm.runtime.text

import org.cooperllm.runtime.bundle.TextRules
import org.cooperllm.runtime.update.NO_TARGET

/**
 * Encoded texts in a program's shape: rows of [tokens] tokens, the longest row rounded up by the manifest's rule.
 *
 * [inputIds], [attentionMask] (1 for a real token) and [targets] are (rows * tokens), row by row. A target stands at a
 * token whose successor belongs to the response, and is that successor; [NO_TARGET] elsewhere. Rows beyond the texts have
 * no real token.
 */
internal class PaddedTexts(
    encoded: List<EncodedText>,
    rows: Int,
    private val rules: TextRules,
) {
    val tokens: Int
    val inputIds: LongArray
    val attentionMask: LongArray
    val targets: LongArray

    init {
        require(encoded.size in 1..rows) { "${encoded.size} texts do not fit a batch of $rows rows" }
        val longest = maxOf(1, encoded.maxOf { it.ids.size })
        val multiple = rules.padToMultipleTokens
        tokens = minOf((longest + multiple - 1) / multiple * multiple, rules.maxTokens)
        inputIds = LongArray(rows * tokens) { rules.padId.toLong() }
        attentionMask = LongArray(rows * tokens)
        targets = LongArray(rows * tokens) { NO_TARGET }
        encoded.forEachIndexed(::put)
    }

    private fun put(
        row: Int,
        text: EncodedText,
    ) {
        val count = text.ids.size
        val start = row * tokens + if (rules.padsLeft) tokens - count else 0
        for (i in 0 until count) {
            inputIds[start + i] = text.ids[i].toLong()
            attentionMask[start + i] = 1
        }
        // Nothing comes after the last token, and nothing before the first.
        for (i in maxOf(1, count - text.responseTokens) until count) targets[start + i - 1] = text.ids[i].toLong()
    }
}
