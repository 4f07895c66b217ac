package org.cooperllm.runtime.session

import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Mutex
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.bundle.BundlePart
import org.cooperllm.runtime.plan.StreamingOrder
import org.cooperllm.runtime.program.ProgramOpener
import org.cooperllm.runtime.text.TextEncoder
import org.cooperllm.runtime.text.Tokenizer
import org.cooperllm.runtime.update.ChainShape
import org.cooperllm.runtime.update.Core
import java.io.Closeable
import java.io.File

/**
 * One bundle that is loaded and ready to run: program, adapter and tokenizer in memory.
 *
 * Hold [lock] over everything that runs or moves the adapter, so that a prediction never sees one in between.
 *
 * Hidden states of private examples take up to [limits]' part of memory, then a file in [stateFolder].
 *
 * Raises ProgramError when the program cannot be opened: export the bundle again; BundleTooLarge where it needs more than
 * the limits allow.
 */
internal class Engine(
    val bundle: Bundle,
    opener: ProgramOpener,
    openTokenizer: (File) -> Tokenizer,
    threads: Int,
    limits: Limits = Limits(),
    stateFolder: File? = null,
) : Closeable {
    val lock = Mutex()

    /** What it takes. */
    val memory = Memory(bundle)
    private val leftBytes = limits.maxMemoryBytes?.let(memory::leftBytes) ?: Long.MAX_VALUE
    private val stateBytes = minOf(limits.maxStateBytes, leftBytes / 2)
    private val stateRoom = StateRoom(stateBytes, stateFolder)

    /** What guides and streaming order may hold: what a limit leaves beside the states that are kept. */
    val streamingBytes: Long =
        if (limits.maxMemoryBytes == null) StreamingOrder.MOST_BYTES else leftBytes - stateBytes

    /** K, the head's number. */
    val head: Int = bundle.manifest.chain.segments

    /** The only labels that an example may have; null where a label is a text of its own, a response. */
    val knownLabels: List<String>? =
        if (bundle.manifest.chain.headTokens > 0) null else bundle.manifest.task.classNames

    @Volatile
    var isClosed: Boolean = false
        private set

    val core: Core
    private val program = opener.open(bundle.file(BundlePart.PROGRAM), threads)
    private val tokenizer: Tokenizer
    private val encoder: TextEncoder

    init {
        var opened: Tokenizer? = null
        try {
            val chain = bundle.manifest.chain
            val shape =
                ChainShape(
                    chain.segments,
                    chain.batchExamples,
                    bundle.manifest.text.maxTokens,
                    chain.hiddenSize,
                    bundle.manifest.task.classNames.size,
                    chain.headTokens,
                    chain.vocabulary,
                )
            core = Core(program, shape, bundle.layout)
            core.adapter.copyFrom(bundle.adapter)
            opened = openTokenizer(bundle.file(BundlePart.TOKENIZER))
            tokenizer = opened
            encoder = TextEncoder(tokenizer, bundle.manifest.text)
        } catch (error: Throwable) {
            opened?.close()
            program.close()
            throw error
        }
    }

    /** The number of parameters of every segment, the head's last. */
    val segmentCounts: List<Int> = (0..head).map { bundle.layout.segmentCount(it) }

    val hasBranches: Boolean get() = core.chain.hasAuxiliaries()
    val hasHeadGradient: Boolean get() = core.chain.head.hasGradient

    /** What was run since the engine was made. */
    val work: SegmentWork get() =
        core.chain.counters.let { SegmentWork(it.segmentRuns.toList(), it.segmentNs.toList()) }

    /** Lets others use the engine while this thread, whose caller holds [lock], waits in [action]. */
    fun unlocked(action: () -> Unit) {
        lock.unlock()
        try {
            action()
        } finally {
            runBlocking { lock.lock() }
        }
    }

    /** Examples as this bundle sees them. */
    fun privateExamples(examples: Iterable<Example>): PrivateExamples =
        PrivateExamples(
            examples,
            knownLabels,
            encoder,
            bundle.manifest.chain.batchExamples,
            bundle.manifest.text,
            stateRoom,
        )

    /** Examples to evaluate on, all of them, without those whose label is outside the classes. */
    fun exampleSet(examples: List<Example>): ExampleSet {
        val known = examples.filter { knownLabels == null || it.label in knownLabels }
        return ExampleSet(known, knownLabels, encoder, bundle.manifest.chain.batchExamples, bundle.manifest.text)
    }

    /**
     * The head's logits of every text, one value a class. Hold [lock].
     *
     * Raises UnsupportedTask where the labels are responses: such a model has no classes.
     */
    fun classify(texts: List<String>): List<FloatArray> {
        val names =
            knownLabels
                ?: throw UnsupportedTask("this bundle learns to answer in words; it sorts no texts into classes")
        val rows = bundle.manifest.chain.batchExamples
        return texts.chunked(rows).flatMap { part ->
            val examples = part.map { Example(it, names[0]) }
            val set = ExampleSet(examples, names, encoder, rows, bundle.manifest.text)
            val logits = core.logits(set.batches(IntArray(part.size) { it }).single())
            part.indices.map { logits.copyOfRange(it * names.size, (it + 1) * names.size) }
        }
    }

    /** Gives program and tokenizer back. Hold [lock], or be alone. */
    override fun close() {
        if (isClosed) return
        isClosed = true
        tokenizer.close()
        program.close()
    }
}
