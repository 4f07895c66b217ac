package org.cooperllm.runtime.update

import org.cooperllm.runtime.program.Value

/** Per row, until the next run of the head. */
internal class HeadRows(
    val loss: DoubleArray,
    val count: DoubleArray,
    val correct: DoubleArray,
)

/**
 * The hidden states of one walk through the chain, by the segment that they enter, and the head at their end.
 *
 * A handle is the output of the segment before it: it stays true until that segment runs again.
 */
internal class HiddenStates(
    private val chain: Chain,
    private val checkGoesOn: () -> Unit,
) {
    private val head = chain.shape.segments
    private val entering = arrayOfNulls<Value>(head + 1)
    private val blended =
        HeadRows(DoubleArray(chain.shape.batchExamples), chain.head.count.clone(), chain.head.correct.clone())
    private val local = HeadRows(chain.head.loss, chain.head.count, chain.head.correct)
    private var exit = head
    private var globalWeight = 0.0
    private var branch: Value? = null

    /** Begins a call: the head takes what leaves segment [exit] - 1. */
    fun begin(
        exit: Int,
        globalWeight: Double,
    ) {
        this.exit = exit
        this.globalWeight = globalWeight
    }

    /** Takes a batch and makes its first hidden state. Where no segment runs, nothing is needed of embed. */
    fun enter(batch: Batch) {
        branch = null
        chain.setBatch(batch)
        if (batch.hidden == null || batch.firstSegment < exit) entering[0] = chain.embed()
        if (batch.hidden != null) entering[batch.firstSegment] = chain.handedIn(batch)
    }

    /** Runs a segment on the state that enters it. */
    fun run(segment: Int) {
        entering[segment + 1] = chain.runSegment(segment, entering(segment))
        branch = null
    }

    /** Takes a state that was kept as the one that enters a segment. */
    fun put(
        segment: Int,
        state: Value,
    ) {
        entering[segment] = state
        branch = null
    }

    /** The state that enters a segment. */
    fun entering(segment: Int): Value = checkNotNull(entering[segment]) { "a state that was made before" }

    /** What the head says of the batch's rows, by the call's objective. */
    fun runHead(wantAnswers: Boolean): HeadRows {
        val state = entering(exit)
        chain.head.run(state, wantAnswers)
        if (globalWeight == 0.0) return local
        for (row in blended.loss.indices) {
            blended.loss[row] = local.loss[row]
            blended.count[row] = local.count[row]
            blended.correct[row] = local.correct[row]
        }
        // Without a method in it the branch is the identity, and the head would say the same again.
        if (chain.hasAuxiliaries(exit)) chain.head.run(branchOf(state), wantAnswers = false)
        for (row in blended.loss.indices) blended.loss[row] += globalWeight * local.loss[row]
        return blended
    }

    /** What leaves the auxiliary branches behind the exit; made once for every state. */
    private fun branchOf(state: Value): Value {
        branch?.let { return it }
        var at = state
        for (segment in exit until head) {
            checkGoesOn()
            at = chain.runAuxiliary(segment, at)
        }
        checkGoesOn()
        branch = at
        return at
    }
}
