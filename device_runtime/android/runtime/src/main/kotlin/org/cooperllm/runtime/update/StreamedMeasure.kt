package org.cooperllm.runtime.update

import org.cooperllm.runtime.plan.LevelPlan
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.DirectionKernels
import org.cooperllm.runtime.zo.FloatVector

/** What a [StreamedMeasure] works with: the parts of its [Core]. */
internal class CoreParts(
    val chain: Chain,
    val kernels: DirectionKernels,
    val perturbations: Perturbations,
    val states: HiddenStates,
    val memory: SlotMemory,
    val checkGoesOn: () -> Unit,
)

/** What is to be measured, checked as far as it can be without a guide; [labels] are two strings a direction. */
internal class Measured(
    val batches: List<Batch>,
    val directions: List<Direction>,
    val epsilon: Double,
    val labels: IntArray,
    val exit: Int,
    val globalWeight: Double,
)

/**
 * A measurement in streaming order: every string of labels at one segment before any at the next (see [LevelPlan]), so
 * that guides are needed one segment at a time.
 *
 * For each of [segments], in order: hold the slices of that segment, [advance], let go of them; then [finish]. The answer
 * is that of [Core.measure], bit for bit, and the adapter is as it was between calls. Holds a hidden state for every
 * batch and distinct string; a batch is embedded again at each segment, so that others may use the program in between.
 */
internal class StreamedMeasure(
    private val parts: CoreParts,
    private val of: Measured,
) {
    private val chain = parts.chain
    private val head = chain.shape.segments
    private val plan = LevelPlan().also { it.build(of.labels, 2 * of.directions.size, head + 1) }
    private val checks = LevelChecks(chain, parts.kernels, of.labels, of.directions, of.epsilon)
    private val losses = Losses(DoubleArray(2 * of.directions.size), DoubleArray(2 * of.directions.size))
    private val slots: List<List<Slot>>

    /** The segments that run, in order; the head's number is the last. */
    val segments: List<Int> = (of.batches.minOf { it.firstSegment } until of.exit) + head
    private var next = 0

    /** How long the last [advance] checked directions and perturbed. */
    var perturbedNs: Long = 0
        private set

    /** A hidden state of one batch in memory of its own, which the program reads. */
    private class Slot(
        val vector: FloatVector,
        val value: Value,
    )

    init {
        checks.checkScalars()
        parts.states.begin(of.exit, of.globalWeight)
        slots = of.batches.mapIndexed { number, batch -> entered(batch, number * plan.slots) }
    }

    /**
     * Checks and runs the next segment for all directions, whose slices of guides there are held.
     *
     * Raises what [Core.measure] does: then the measurement is over.
     */
    fun advance() {
        val start = System.nanoTime()
        val segment = segments[next]
        val perturbNs = chain.counters.perturbNs
        parts.checkGoesOn()
        checks.checkLevel(segment)
        val checkedNs = System.nanoTime() - start
        parts.states.begin(of.exit, of.globalWeight) // what another call may have left otherwise in between
        parts.perturbations.begin(of.directions, of.epsilon)
        try {
            for (number in of.batches.indices) runLevel(segment, of.batches[number], slots[number])
        } finally {
            parts.perturbations.restore()
            chain.counters.totalNs += System.nanoTime() - start
        }
        perturbedNs = checkedNs + chain.counters.perturbNs - perturbNs
        next++
    }

    /** The answer, after the last segment. Raises DirectionBelowGrid, which nobody could know before, or LossNotFinite. */
    fun finish(): Measurement {
        check(next == segments.size) { "segment ${segments[next]} has not run" }
        checks.checkFaithful()
        return losses.measurement(of.epsilon)
    }

    /** Room for the states of a batch, from one place on; the first holds what it begins with. */
    private fun entered(
        batch: Batch,
        place: Int,
    ): List<Slot> {
        parts.checkGoesOn()
        parts.states.enter(batch)
        val count = chain.shape.batchExamples * batch.tokens * chain.shape.hiddenSize
        val made = List(plan.slots) { parts.memory.slot(place + it, count).let { Slot(it, chain.bindHidden(it)) } }
        keep(parts.states.entering(if (batch.hidden == null) 0 else batch.firstSegment), made[0])
        return made
    }

    private fun runLevel(
        segment: Int,
        batch: Batch,
        slots: List<Slot>,
    ) {
        if (segment < batch.firstSegment) return
        if (segment == head) chain.setBatch(batch) else parts.states.enter(batch)
        var from = NO_SLOT
        for (run in 0 until plan.runs) {
            if (plan.position(run) != segment) continue
            parts.checkGoesOn()
            parts.perturbations.moveTo(segment, plan.label(run))
            // At the head, what a state gives without a label is computed once.
            if (segment != head || plan.fromSlot(run) != from) {
                from = plan.fromSlot(run)
                parts.states.put(if (segment == head) of.exit else segment, slots[from].value)
            }
            if (segment == head) {
                addLosses(batch, run)
            } else {
                parts.states.run(segment)
                keep(parts.states.entering(segment + 1), slots[plan.toSlot(run)])
            }
        }
    }

    private fun addLosses(
        batch: Batch,
        run: Int,
    ) {
        val rows = parts.states.runHead(wantAnswers = false)
        for (i in 0 until plan.evaluationCount(run)) losses.add(batch, rows, plan.evaluation(run, i))
    }

    private fun keep(
        state: Value,
        slot: Slot,
    ) {
        val values = state.floats()
        slot.vector.write(0, values, values.size)
    }

    private companion object {
        const val NO_SLOT = -1
    }
}
