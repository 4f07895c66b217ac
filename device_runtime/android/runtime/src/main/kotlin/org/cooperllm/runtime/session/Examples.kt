package org.cooperllm.runtime.session

import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.ExamplesError
import org.cooperllm.runtime.bundle.TextRules
import org.cooperllm.runtime.text.PaddedTexts
import org.cooperllm.runtime.text.TextEncoder
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.update.CountedExamples
import org.cooperllm.runtime.update.Examples
import org.cooperllm.runtime.update.InFile
import org.cooperllm.runtime.update.InMemory
import org.cooperllm.runtime.update.PrefixStates
import org.cooperllm.runtime.update.StateStore
import java.io.Closeable
import java.io.File
import java.io.IOException
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
 *
 * Hidden states that are kept from task to task take what [stateRoom] allows; where there is no room, none are kept and
 * the chain runs from its start.
 */
internal class PrivateExamples(
    given: Iterable<Example>,
    names: List<String>?,
    encoder: TextEncoder,
    rows: Int,
    rules: TextRules,
    private val stateRoom: StateRoom = StateRoom(),
) : Closeable {
    val train: ExampleSet
    val heldOut: ExampleSet
    val skipped: Int
    val truncated: Int

    init {
        val all = given.toList()
        val known = all.filter { names == null || it.label in names }
        skipped = all.size - known.size
        val (out, stay) = known.distinct().partition { isHeldOut(it.text) }
        var cut = 0
        val (trainSet, heldOutSet) =
            listOf(stay, out).map { part ->
                val encoded =
                    part.map { if (names == null) encoder.encode(it.text, it.label) else encoder.encode(it.text) }
                cut += encoded.count { it.wasCut }
                val lengths = IntArray(part.size) { encoded[it].ids.size }
                ExampleSet(part, names, encoder, rows, rules, lengths)
            }
        truncated = cut
        train = trainSet
        heldOut = heldOutSet
    }

    private var trainStates: PrefixStates? = null
    private var heldOutStates: PrefixStates? = null

    /**
     * The training examples for a task that moves nothing before [firstSegment].
     *
     * Their hidden states there are kept from task to task, as long as there is room and they stay the same. A task that
     * moves all segments ends that.
     */
    fun trainFrom(
        firstSegment: Int,
        core: Core,
    ): Examples {
        if (firstSegment == 0) {
            close()
            return train
        }
        trainStates = statesOf(train, trainStates, core)
        return trainStates?.moveTo(firstSegment) ?: train
    }

    /** The held-out examples, with their hidden states at [firstSegment] where there is room for them. */
    fun heldOutFrom(
        firstSegment: Int,
        core: Core,
    ): Examples {
        if (firstSegment == 0) return heldOut
        heldOutStates = statesOf(heldOut, heldOutStates, core)
        return heldOutStates?.moveTo(firstSegment) ?: heldOut
    }

    /** The segment at which hidden states of the training examples are kept; 0: none are. */
    val boundary: Int get() = trainStates?.firstSegment ?: 0

    /** Lets go of all hidden states, in memory and on disk. */
    override fun close() {
        trainStates?.close()
        heldOutStates?.close()
        trainStates = null
        heldOutStates = null
    }

    private fun statesOf(
        examples: ExampleSet,
        before: PrefixStates?,
        core: Core,
    ): PrefixStates? {
        if (before != null && before.areOf(examples, core)) return before
        before?.close()
        val all = train.lengths.sum() + heldOut.lengths.sum()
        val store = stateRoom.storeOf(examples.lengths.sum(), all, core.chain.shape.hiddenSize) ?: return null
        return PrefixStates(examples, core, store)
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

/**
 * Where hidden states of private examples may be kept: up to [mostBytes] of memory, for all examples together; beyond
 * that a file in [folder], in half the bytes.
 */
internal class StateRoom(
    private val mostBytes: Long = MOST_BYTES,
    private val folder: File? = null,
) {
    /** Room for so many tokens' states, or null; in which form depends on the sizes of all examples alone. */
    fun storeOf(
        tokens: Int,
        allTokens: Int,
        width: Int,
    ): StateStore? {
        if (tokens == 0) return null
        if (Float.SIZE_BYTES.toLong() * allTokens * width <= mostBytes) return InMemory(tokens, width)
        return try {
            folder?.let { InFile(tokens, width, it) }
        } catch (_: IOException) {
            null // no room on the disk: slower, but no reason not to take part
        }
    }

    companion object {
        const val MOST_BYTES: Long = 64L * 1024 * 1024
    }
}

/**
 * Examples that batches can be made of, in the program's shape: [rows] rows, padded with rows of weight 0.
 *
 * [lengths] are none where nobody counted.
 */
internal class ExampleSet(
    private val examples: List<Example>,
    private val names: List<String>?,
    private val encoder: TextEncoder,
    override val rows: Int,
    private val rules: TextRules,
    override val lengths: IntArray = IntArray(0),
) : CountedExamples {
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
