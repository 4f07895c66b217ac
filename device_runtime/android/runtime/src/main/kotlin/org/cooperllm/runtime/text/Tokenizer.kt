package org.cooperllm.runtime.text

import java.io.Closeable

/**
 * Turns one text into tokens, all of them: cutting and padding are done elsewhere, by the manifest's rules.
 *
 * The one seam to a tokenizer library. One thread at a time; close it to give its memory back.
 */
public interface Tokenizer : Closeable {
    /** The tokens of [text], with those that the tokenizer sets around a text, or without. */
    public fun encode(
        text: String,
        withSpecialTokens: Boolean,
    ): Tokens
}

/**
 * The tokens of a text.
 *
 * @property ids of the vocabulary
 * @property words which of the tokenizer's own words each token is of, in ascending order; -1 for none
 * @property special whether the tokenizer set the token around the text
 */
public class Tokens(
    public val ids: IntArray,
    public val words: IntArray,
    public val special: BooleanArray,
)
