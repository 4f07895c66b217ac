package org.cooperllm.runtime.session

import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.ExamplesError
import org.cooperllm.runtime.bundle.TextRules
import org.cooperllm.runtime.text.PaddedTexts
import org.cooperllm.runtime.text.TextEncoder
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Examples
import java.nio.ByteBuffer
import java.security.MessageDigest

/** One private example: a text and the name of its class, or the response that the model should learn to give. */
public data class Example(
    public val text: String,
    public val label: String,
)

/**
 * Where a device gets its examples from: the app hands them over when it is asked, at every session anew.
 *
 * They stay in memory, for that session: nothing of them is ever stored or sent. A text that is longer than the model
 * takes is cut, an example whose label is no class of the bundle is left out; both are counted.
 */
public fun interface ExampleSource {
    /**
     * All examples, in any order. [classNames] is what labels there are; null while the device holds no bundle, or where
     * labels are responses. What it throws ends the session with ExamplesError.
     */
    public fun examples(classNames: List<String>?): List<Example>
}

/** All examples; what the app's own code throws must not look like an error of ours. Raises ExamplesError. */
internal fun ExampleSource.ask(classNames: List<String>?): List<Example> =
    try {
        examples(classNames)
    } catch (error: CooperLLMError) {
        throw error
    } catch (error: Exception) {
        throw ExamplesError("the example source failed with ${error.javaClass.simpleName}: correct it", error)
    }

/**
 * All of a device's examples, ready for tasks: [train] and [heldOut] (a tenth, by hash of the text) hold distinct ones.
 *
 * [skipped] counts those left out for their label, [truncated] those whose text is cut to the model's length. [names] are
 * the labels that count; null where a label is a response.
 */
internal class PrivateExamples(
    given: Iterable<Example>,
    names: List<String>?,
    encoder: TextEncoder,
    rows: Int,
    rules: TextRules,
) {
    val train: ExampleSet
    val heldOut: ExampleSet
    val skipped: Int
    val truncated: Int

    init {
        val all = given.toList()
        val known = all.filter { names == null || it.label in names }
        skipped = all.size - known.size
        val (out, stay) = known.distinct().partition { isHeldOut(it.text) }
        truncated =
            (out + stay).count {
                if (names == null) encoder.encode(it.text, it.label).wasCut else encoder.encode(it.text).wasCut
            }
        train = ExampleSet(stay, names, encoder, rows, rules)
        heldOut = ExampleSet(out, names, encoder, rows, rules)
    }

    companion object {
        private const val HELD_OUT_ONE_IN = 10L

        /**
         * Whether the device keeps this text for evaluation: the first 8 bytes of its UTF-8 bytes' SHA-256, as a big-endian
         * unsigned integer, are a multiple of 10. So an example never changes sides when others come or go.
         */
        fun isHeldOut(text: String): Boolean {
            val digest = MessageDigest.getInstance("SHA-256").digest(text.toByteArray())
            return java.lang.Long.remainderUnsigned(ByteBuffer.wrap(digest).getLong(), HELD_OUT_ONE_IN) == 0L
        }

        /** How many distinct training examples there seem to be, before a bundle says which labels count. */
        fun countTraining(examples: Iterable<Example>): Int = examples.distinct().count { !isHeldOut(it.text) }
    }
}

/** Examples that batches can be made of, in the program's shape: [rows] rows, padded with rows of weight 0. */
internal class ExampleSet(
    private val examples: List<Example>,
    private val names: List<String>?,
    private val encoder: TextEncoder,
    private val rows: Int,
    private val rules: TextRules,
) : Examples {
    override val count: Int get() = examples.size

    override fun batches(chosen: IntArray): List<Batch> =
        chosen.toList().chunked(rows).map { batch(it.map(examples::get)) }

    private fun batch(part: List<Example>): Batch {
        val encoded =
            part.map { if (names == null) encoder.encode(it.text, it.label) else encoder.encode(it.text) }
        val texts = PaddedTexts(encoded, rows, rules)
        val labels =
            if (names == null) {
                texts.targets
            } else {
                LongArray(rows) { if (it < part.size) names.indexOf(part[it].label).toLong() else 0L }
            }
        val weights = DoubleArray(rows) { if (it < part.size) 1.0 else 0.0 }
        return Batch(texts.inputIds, texts.attentionMask, labels, weights, texts.tokens)
    }
}
