package org.cooperllm.runtime.text

import org.cooperllm.runtime.bundle.TextRules

/** One text's ids, how many of them at the end are its response's, and whether anything was cut. */
internal class EncodedText(
    val ids: IntArray,
    val responseTokens: Int,
    val wasCut: Boolean,
)

/**
 * Texts as ids, exactly as a bundle's manifest says; the same as device_runtime/text.py.
 *
 * Where the manifest has a template, its ids stand around those of the text, and of the response where the task learns
 * one: only text and response are ever cut, so what the head looks for is always in its place.
 */
internal class TextEncoder(
    private val tokenizer: Tokenizer,
    private val rules: TextRules,
) {
    private val hasTemplate = rules.template.isNotEmpty()
    private val room = rules.maxTokens - rules.prefixIds.size - rules.suffixIds.size

    /** One text's ids, those of the template or special tokens included. */
    fun encode(text: String): EncodedText {
        val kept = cut(rules.textLead + clean(text), rules.truncatesLeft)
        if (!hasTemplate) return EncodedText(kept.ids, 0, kept.wasCut)
        return EncodedText(rules.prefixIds + kept.ids + rules.suffixIds, 0, kept.wasCut)
    }

    /**
     * One text's and its response's ids.
     *
     * A text that needs more than half of the room gives way to its response first; then the response is cut, at its
     * end. What ends a response stands only after a whole one.
     */
    fun encode(
        text: String,
        response: String,
    ): EncodedText {
        val answer = cut(rules.responseLead + clean(response), fromLeft = false)
        val whole = answer.ids + rules.endIds
        val asked = cut(rules.textLead + clean(text), rules.truncatesLeft)
        val kept = minOf(asked.ids.size, maxOf(room - whole.size, room / 2))
        val shown = side(asked.ids, kept, rules.truncatesLeft)
        val said = whole.copyOf(minOf(whole.size, room - kept))
        val wasCut = asked.wasCut || kept < asked.ids.size || answer.wasCut || said.size < whole.size
        return EncodedText(rules.prefixIds + shown + rules.suffixIds + said, said.size, wasCut)
    }

    /** The ids that are kept of a text, special tokens included where there is no template. */
    private fun cut(
        text: String,
        fromLeft: Boolean,
    ): EncodedText {
        // Tokens come word by word, so a prefix of the text gives the same tokens as all of it, except in the prefix's
        // last word: it will do once all kept tokens lie before that word.
        var size = CHARACTERS_PER_TOKEN * room
        while (!fromLeft && size < text.length) {
            val end = if (text[size - 1].isHighSurrogate()) size - 1 else size
            val tokens = tokenizer.encode(text.substring(0, end), !hasTemplate)
            if (endsBeforeLastWord(tokens)) return cut(tokens, fromLeft = false)
            size *= 4
        }
        return cut(tokenizer.encode(text, !hasTemplate), fromLeft)
    }

    private fun cut(
        tokens: Tokens,
        fromLeft: Boolean,
    ): EncodedText {
        if (tokens.ids.size <= room) return EncodedText(tokens.ids, 0, false)
        val before = leading(tokens)
        val after = trailing(tokens)
        val text = tokens.ids.copyOfRange(before, tokens.ids.size - after)
        val kept = side(text, maxOf(0, room - before - after), fromLeft)
        val ids = tokens.ids.copyOf(before) + kept + tokens.ids.copyOfRange(tokens.ids.size - after, tokens.ids.size)
        return EncodedText(ids, 0, true)
    }

    private fun endsBeforeLastWord(tokens: Tokens): Boolean {
        val first = leading(tokens)
        val end = tokens.ids.size - trailing(tokens)
        val keptEnd = first + room - (tokens.ids.size - (end - first))
        if (keptEnd >= end) return false
        val lastKept = (first until keptEnd).lastOrNull { tokens.words[it] >= 0 } ?: return false
        val last = (keptEnd until end).lastOrNull { tokens.words[it] >= 0 } ?: return false
        return tokens.words[lastKept] < tokens.words[last]
    }

    private fun leading(tokens: Tokens): Int = tokens.special.indexOfFirst { !it }.coerceAtLeast(0)

    private fun trailing(tokens: Tokens): Int = tokens.special.size - 1 - tokens.special.indexOfLast { !it }

    private fun side(
        ids: IntArray,
        count: Int,
        fromLeft: Boolean,
    ): IntArray = if (fromLeft) ids.copyOfRange(ids.size - count, ids.size) else ids.copyOf(count)

    /** Halves of UTF-16 pairs are no characters, and no tokenizer accepts them. */
    private fun clean(text: String): String {
        val isWhole = text.indices.none { isHalf(text, it) }
        return if (isWhole) text else String(CharArray(text.length) { if (isHalf(text, it)) REPLACEMENT else text[it] })
    }

    private fun isHalf(
        text: String,
        at: Int,
    ): Boolean =
        when {
            text[at].isHighSurrogate() -> at + 1 == text.length || !text[at + 1].isLowSurrogate()
            text[at].isLowSurrogate() -> at == 0 || !text[at - 1].isHighSurrogate()
            else -> false
        }

    private companion object {
        /** Characters of a long text that are looked at first, for each token that fits. */
        const val CHARACTERS_PER_TOKEN = 32
        const val REPLACEMENT = '\uFFFD'
    }
}
