package org.cooperllm.runtime.update

import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.plan.Plan
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.DirectionKernels
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.Update
import org.cooperllm.runtime.zo.UpdateKernels
import org.cooperllm.runtime.zo.ZoStatus

/**
 * Losses under perturbations of the one adapter in memory, projected gradients, the step.
 *
 * A call has two parts. The first checks everything, plans, and sizes scratch; the second is the loop, which allocates
 * nothing for a parameter and, for a direction, only the small handles of what methods give. Whatever ends the loop,
 * the adapter is then the same as before it, bit for bit. One thread at a time, except [stop].
 *
 * Raises ProgramError where the program is not the manifest's: drop the bundle.
 */
internal class Core(
    program: Program,
    shape: ChainShape,
    layout: Layout,
) {
    val chain: Chain = Chain(program, shape, layout)
    val adapter: FloatVector get() = chain.adapter

    private val head = shape.segments
    private val kernels = DirectionKernels()
    private val updates = UpdateKernels(kernels)
    private val checks = CoreChecks(chain, kernels)
    private val perturbations = Perturbations(chain, kernels)
    private val plan = Plan()
    private val states = HiddenStates(chain, ::checkGoesOn)
    private val labels = DirectionLabels(layout, head)
    private val slots = SlotMemory()

    @Volatile
    private var isStopped = false

    /** From any thread: what runs ends with Stopped before its next segment, and so does every call until [resume]. */
    fun stop() {
        isStopped = true
    }

    /** Takes calls again. */
    fun resume() {
        isStopped = false
    }

    /**
     * The projected gradient of every direction: rho = (L(theta + epsilon z') - L(theta - epsilon z')) / (2 epsilon).
     *
     * L is the mean loss in nats, sum of weight * loss over sum of weight * count, added in float64 in order of batch and
     * row. z' is the rounded direction. The adapter is afterwards the same, also on an error.
     *
     * Raises TaskRefused (a subclass says which status to report), Stopped or ProgramError.
     */
    fun measure(
        batches: List<Batch>,
        directions: List<Direction>,
        epsilon: Double,
        objective: Objective = Objective(),
    ): Measurement = losses(batches, directions, epsilon, labels.of(directions), objective).measurement(epsilon)

    /**
     * Begins [measure] in streaming order, for guides that are held a segment at a time. Until it is finished, what does
     * not move the adapter may be called in between; one that begins ends the one before. Its memory is kept for the next
     * one until [releaseStates].
     *
     * Raises what [measure] does, for what can be told without a guide.
     */
    fun begin(
        batches: List<Batch>,
        directions: List<Direction>,
        epsilon: Double,
        objective: Objective = Objective(),
    ): StreamedMeasure {
        val exit = checks.exitOf(objective)
        checks.checkBatches(batches, exit)
        val strings = labels.of(directions).copyOf()
        checks.checkEntry(batches, strings, exit)
        val parts = CoreParts(chain, kernels, perturbations, states, slots, ::checkGoesOn)
        return StreamedMeasure(parts, Measured(batches, directions, epsilon, strings, exit, objective.globalWeight))
    }

    /** Lets go of the hidden states of measurements in streaming order. */
    fun releaseStates() = slots.release()

    /**
     * The losses of any strings of labels (see [Plan]): `labels[e * (K + 1) + segment]`, 0 in segments that do not run.
     *
     * Raises what [measure] does.
     */
    fun losses(
        batches: List<Batch>,
        directions: List<Direction>,
        epsilon: Double,
        labels: IntArray,
        objective: Objective = Objective(),
    ): Losses {
        val start = System.nanoTime()
        val exit = checks.exitOf(objective)
        checks.checkBatches(batches, exit)
        checks.checkDirections(labels, directions, epsilon)
        checks.checkEntry(batches, labels, exit)
        val evaluations = labels.size / (head + 1)
        plan.build(labels, evaluations, head + 1)
        states.begin(exit, objective.globalWeight)
        val result = Losses(DoubleArray(evaluations), DoubleArray(evaluations))
        perturbations.begin(directions, epsilon)
        try {
            for (batch in batches) runPlan(batch, exit, result)
        } finally {
            perturbations.restore()
            chain.counters.totalNs += System.nanoTime() - start
        }
        return result
    }

    /** Every run of the plan on one batch. A state stays where its segment left it: only later segments run meanwhile. */
    private fun runPlan(
        batch: Batch,
        exit: Int,
        result: Losses,
    ) {
        checkGoesOn()
        states.enter(batch)
        for (run in 0 until plan.runs) {
            checkGoesOn()
            val position = plan.position(run)
            // What lies before a state that was handed in or behind the exit is unperturbed: checked before.
            if (position < batch.firstSegment || position in exit until head) continue
            perturbations.moveTo(position, plan.label(run))
            if (position == head) {
                addLosses(batch, run, result)
            } else {
                states.run(position)
            }
        }
    }

    /** Runs the head and adds its rows, in order, to every evaluation that wants this run. */
    private fun addLosses(
        batch: Batch,
        run: Int,
        result: Losses,
    ) {
        val rows = states.runHead(wantAnswers = false)
        for (i in 0 until plan.evaluationCount(run)) result.add(batch, rows, plan.evaluation(run, i))
    }

    /**
     * The slope of the loss along z', (dL/dtheta) . z', of directions in the head alone, without a difference of losses:
     * the method `head_gradient` runs once a batch, whatever the number of directions. Raises what [measure] does.
     */
    fun slopes(
        batches: List<Batch>,
        directions: List<Direction>,
        epsilon: Double,
        exitSegment: Int = 0,
    ): DoubleArray {
        checks.checkSlopes(directions)
        val exit = checks.exitOf(Objective(exitSegment))
        checks.checkBatches(batches, exit)
        val labels = IntArray(directions.size * (head + 1)) { if (it % (head + 1) == head) it / (head + 1) + 1 else 0 }
        checks.checkDirections(labels, directions, epsilon)
        val slopes = HeadSlopes(chain, kernels)
        states.begin(exit, 0.0)
        for (batch in batches) {
            val state = forward(batch, exit)
            slopes.add(batch) { weights, sum -> chain.head.addGradient(state, weights, sum) }
        }
        val rho = DoubleArray(directions.size) { slopes.along(directions[it], epsilon) }
        if (!rho.all { it.isFinite() }) throw lossNotFinite()
        return rho
    }

    /** Summed loss, targets and right answers over rows with a weight. Raises what [measure] does. */
    fun evaluate(
        batches: List<Batch>,
        objective: Objective = Objective(),
    ): Evaluation {
        val exit = checks.exitOf(objective)
        checks.checkBatches(batches, exit)
        states.begin(exit, objective.globalWeight)
        var lossSum = 0.0
        var count = 0.0
        var correct = 0L
        for (batch in batches) {
            forward(batch, exit)
            val rows = states.runHead(wantAnswers = true)
            for (row in batch.weights.indices) {
                val weight = batch.weights[row]
                if (weight == 0.0) continue
                if (!rows.loss[row].isFinite()) throw lossNotFinite()
                lossSum += weight * rows.loss[row]
                count += weight * rows.count[row]
                correct += rows.correct[row].toLong()
            }
        }
        return Evaluation(lossSum, count, correct)
    }

    /** The logits, float32 (B, C), of a program with classes. Raises what [measure] does. */
    fun logits(batch: Batch): FloatArray {
        check(!chain.shape.targetsAreTokens) { "a language model's head gives losses, not logits" }
        evaluate(listOf(batch))
        return chain.head.logits
    }

    /** A copy of the hidden state that enters a segment (K: the head), float32 (B, T, D), for [Batch.hidden]. */
    fun hidden(
        batch: Batch,
        segment: Int,
    ): FloatVector {
        checks.checkBatches(listOf(batch), head)
        require(segment in batch.firstSegment..head) { "a segment from the batch's first one up to the head" }
        states.begin(segment, 0.0)
        return FloatVector.of(forward(batch, segment).floats())
    }

    /**
     * Steps the adapter and returns how many parameters met the bound. All slices are checked before the first is
     * written. Raises BadArtifact, DirectionOutOfRange or UnsupportedTask, with the adapter unchanged: drop the update.
     */
    fun update(update: Update): Int {
        val tensors = chain.layout.tensors.filter { update.isActive(it.segment) }
        for (tensor in tensors) {
            val status = updates.check(tensor, update)
            if (status != ZoStatus.OK) throw refusalOf(status, "an update of ${tensor.name}")
        }
        return tensors.sumOf { updates.apply(chain.adapter, it, update) }
    }

    /** The hidden state that enters [last]. */
    private fun forward(
        batch: Batch,
        last: Int,
    ): Value {
        checkGoesOn()
        states.enter(batch)
        for (segment in batch.firstSegment until last) {
            checkGoesOn()
            states.run(segment)
        }
        return states.entering(last)
    }

    private fun checkGoesOn() {
        if (isStopped) throw Stopped("work was stopped: the adapter is as it was, call again to go on")
    }
}
