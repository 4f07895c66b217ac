package org.cooperllm.runtime.update

import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout

/**
 * What a manifest says of its chain: K segments without embed and head, B rows of at most T tokens, width D.
 *
 * Where the targets are tokens, one run of `head` takes [headTokens] of them, which are below [vocabulary], and there
 * are no [classes].
 */
internal class ChainShape(
    val segments: Int,
    val batchExamples: Int,
    val maxTokens: Int,
    val hiddenSize: Int,
    val classes: Int,
    val headTokens: Int = 0,
    val vocabulary: Int = 0,
) {
    val targetsAreTokens: Boolean get() = headTokens > 0
}

/**
 * The chain of segments, embed, segment 0 .. K-1, head (segment K), and the memory that they read.
 *
 * The adapter's tensors are views into one vector: a perturbation in place is what the next run sees. Hidden states are
 * the outputs of the segments themselves and are handed on without a copy; see [Program.run] for how long they last.
 *
 * Raises ProgramError where the program has not the methods that the manifest promises: drop the bundle.
 */
internal class Chain(
    opened: Program,
    val shape: ChainShape,
    val layout: Layout,
) {
    private val program = LoadedMethods(opened)

    /** The n parameters that the program reads. Keep values on the grid. */
    val adapter: FloatVector = FloatVector.allocate(layout.parameters)
    val counters: Counters = Counters(shape.segments)

    /** The head, and the gradient at it where the program has the method. */
    val head: Head

    private val inputs = BatchInputs(program, shape)
    private val segmentNames = Array(shape.segments) { "segment_$it" }
    private val auxiliaryNames = Array(shape.segments) { "auxiliary_$it" }
    private val tensors: Array<Array<Value>> = Array(shape.segments) { bindAdapter(it) }
    private var segmentInputs: Array<Array<Value>> = emptyArray()
    private var auxiliaryInputs: Array<Array<Value>> = emptyArray()

    init {
        require(layout.segments.all { it <= shape.segments }) { "a layout for this chain" }
        for (name in segmentNames + "embed" + "head") {
            if (name !in program.methods) throw misfit(name, "the program has no such method")
        }
        head = Head(program, shape, inputs, bindAdapter(shape.segments), counters)
    }

    /** Whether a segment's adapters can run alone (ChainFed, arXiv 2604.06819). */
    fun hasAuxiliary(segment: Int): Boolean = auxiliaryNames[segment] in program.methods

    /** Whether any can, from a segment on. */
    fun hasAuxiliaries(fromSegment: Int = 0): Boolean = (fromSegment until shape.segments).any { hasAuxiliary(it) }

    /** The methods whose weights are in memory. */
    val loadedMethods: Set<String> get() = program.names

    /**
     * Frees all segments outside [firstSegment] .. [exitSegment] - 1, and the auxiliary branches that do not stand behind
     * them. What is needed again is loaded again when it runs.
     */
    fun keepWindow(
        firstSegment: Int,
        exitSegment: Int,
        branches: Boolean = false,
    ) = unloadExcept(firstSegment until exitSegment, if (branches) exitSegment until shape.segments else IntRange.EMPTY)

    /** Frees all segments before [segment]. */
    fun unloadBefore(segment: Int) = unloadExcept(segment until shape.segments, 0 until shape.segments)

    /** Frees every method that is none of these segments' or auxiliary branches'; embed and head stay. */
    private fun unloadExcept(
        segments: IntRange,
        auxiliaries: IntRange,
    ) {
        val wanted = segments.map { segmentNames[it] } + auxiliaries.map { auxiliaryNames[it] }
        val isUnwanted = (segmentNames + auxiliaryNames).toSet() - wanted.toSet()
        if (!program.keepOnly { it !in isUnwanted }) return
        segmentInputs = emptyArray() // in which outputs of embed were
        auxiliaryInputs = emptyArray()
    }

    /** Takes a batch, whose labels were checked. Its arrays are copied, its hidden state is not. */
    fun setBatch(batch: Batch) = inputs.set(batch)

    /** The hidden state that a batch came with. */
    fun handedIn(batch: Batch): Value = inputs.hidden(batch)

    /** Memory of a hidden state of the batch that was set, as a program takes it. */
    fun bindHidden(state: FloatVector): Value = program.bind(state.buffer, inputs.hiddenShape)

    /** The hidden state that enters segment 0. Also makes what all segments read besides it. */
    fun embed(): Value {
        counters.embedRuns++
        val outputs = counters.timed(program, EMBED, inputs.embed)
        if (outputs.isEmpty() || !isHidden(outputs[0])) throw misfit(EMBED, "it gives no hidden state")
        if (segmentInputs.isEmpty()) {
            segmentInputs = Array(shape.segments) { outputs + tensors[it] }
        }
        for (segment in segmentInputs) outputs.copyInto(segment)
        return outputs[0]
    }

    /** Runs a segment below K on a hidden state. */
    fun runSegment(
        segment: Int,
        from: Value,
    ): Value {
        counters.segmentRuns[segment]++
        segmentInputs[segment][0] = from
        return checked(
            segmentNames[segment],
            counters.timed(program, segmentNames[segment], segmentInputs[segment], segment),
        )
    }

    /** Runs a segment's adapters without its frozen part; without such a method, the identity. */
    fun runAuxiliary(
        segment: Int,
        from: Value,
    ): Value {
        if (!hasAuxiliary(segment)) return from
        if (auxiliaryInputs.isEmpty()) auxiliaryInputs = Array(shape.segments) { arrayOf(from) + tensors[it] }
        counters.auxiliaryRuns[segment]++
        auxiliaryInputs[segment][0] = from
        return checked(
            auxiliaryNames[segment],
            counters.timed(program, auxiliaryNames[segment], auxiliaryInputs[segment]),
        )
    }

    private fun bindAdapter(segment: Int): Array<Value> {
        val tensors = layout.segmentTensors(segment)
        return Array(tensors.size) {
            val sizes = tensors[it].shape
            program.bind(
                adapter.view(tensors[it].offset, tensors[it].count),
                LongArray(sizes.size) { d -> sizes[d].toLong() },
            )
        }
    }

    /** The hidden state that a method gave, and nothing beside it. */
    private fun checked(
        method: String,
        outputs: Array<Value>,
    ): Value {
        if (outputs.size != 1 || !isHidden(outputs[0])) throw misfit(method, "it gives no hidden state")
        return outputs[0]
    }

    private fun isHidden(value: Value): Boolean = value.shape().contentEquals(inputs.hiddenShape)

    private companion object {
        const val EMBED = "embed"
    }
}

/** What a program is told when a method is not what its manifest says. */
internal fun misfit(
    method: String,
    what: String,
): ProgramError = ProgramError("method '$method' does not fit the manifest: $what. Export the bundle again")
