package org.cooperllm.runtime.update

import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.zo.Philox
import org.cooperllm.runtime.zo.Update

/** Private examples, tokenised. A batch holds B of them. */
internal interface Examples {
    /** How many there are. */
    val count: Int

    /** Where batches enter the chain: nothing before that segment runs. */
    val firstSegment: Int get() = 0

    /** The chosen examples in the order given, B at a time. */
    fun batches(chosen: IntArray): List<Batch>
}

/** What a directions task gives: scalars in wire form, step by step, and how many distinct examples are behind them. */
internal class LocalResult(
    val scalars: List<Double>,
    val examples: Int,
)

/**
 * The local update: a task's directions and this device's private examples in, a few scalars out.
 *
 * This is what a device does with its data, from top to bottom:
 *
 *     step:       draw a batch from the private examples by the step's seed
 *                 for each direction z:  rho = (L(theta + epsilon z') - L(theta - epsilon z')) / (2 epsilon)
 *                     (or, where the task asks so of the head alone, the slope itself: grad L . z')
 *                 each rho: clip, noise, round to float32: that is what leaves, and what the device goes on with
 *                 when the step says so, move: theta <- theta - rate * mean_j(rho_j z'_j), rounded as all steps
 *     at the end: theta is again the version that the task was about, bit for bit
 *
 * Nothing here knows a network, a file or a round. State goes in as arguments and comes out as the result; the one
 * thing that is changed and restored is the adapter inside [core]. [gauss] draws from N(0, 1), from the device's own
 * randomness. With a [feed], the guides that directions are made of come by it.
 */
internal class LocalUpdate(
    private val core: Core,
    private val gauss: () -> Double,
    private val between: Between = Between(),
    private val feed: GuideFeed? = null,
) {
    /**
     * Measures every direction of every step, moving in between where the task says so.
     *
     * [done] are the scalars of directions that were finished before the process ended: they are not measured (nor
     * noised) again, only moved along. The adapter is the same after it, bit for bit, also when it raises.
     *
     * Raises TaskRefused (a subclass says which status to report), Stopped or ProgramError.
     */
    fun run(
        task: DirectionsTask,
        train: Examples,
        done: List<Double> = emptyList(),
    ): LocalResult {
        checkTask(task)
        // A second copy of the adapter exists only while a task moves it; measuring alone restores it by itself.
        val base = if (task.steps.dropLast(1).any { it.localLearningRate > 0 }) core.adapter.copy() else null
        val scalars = done.toMutableList()
        val used = mutableSetOf<Int>()
        try {
            for ((number, step) in task.steps.withIndex()) {
                val before = task.steps.take(number).sumOf { it.directions.size }
                val chosen = drawBatch(step.batchSeed, step.batchExamples, train.count)
                chosen.forEach { used += it }
                measureStep(task, step, train, chosen, before, scalars)
                // After the last step nothing is measured any more, so moving would only be undone.
                if (step.localLearningRate > 0 && number + 1 < task.steps.size) {
                    move(task, step, scalars.subList(before, before + step.directions.size))
                }
            }
        } finally {
            if (base != null) core.adapter.copyFrom(base)
        }
        return LocalResult(scalars, used.size)
    }

    /** Measures what is missing of a step, group by group, and adds it to [scalars] in wire form. */
    private fun measureStep(
        task: DirectionsTask,
        step: Step,
        train: Examples,
        chosen: IntArray,
        before: Int,
        scalars: MutableList<Double>,
    ) {
        val missing = step.directions.drop(maxOf(0, scalars.size - before))
        if (missing.isEmpty()) return
        val last = task.steps.sumOf { it.directions.size }
        val batches = train.batches(chosen)
        val take = { rho: DoubleArray ->
            val fresh = rho.map { wireForm(it, task.scalarForm, gauss) }
            scalars += fresh
            if (scalars.size < last) {
                between.keep(fresh)
                if (!between.goOn()) {
                    throw Stopped("work was suspended between two directions: call again to go on")
                }
            }
        }
        val whole = {
            Groups(core, task.exitSegment, between).forEach(batches, missing) { entered, group ->
                take(measure(task, entered, group))
            }
        }
        if (feed == null) whole() else feed.measure(batches, missing, between, whole, take)
    }

    /** The projected gradients of one group, float64, one a direction. */
    private fun measure(
        task: DirectionsTask,
        batches: List<Batch>,
        group: List<TaskDirection>,
    ): DoubleArray {
        val rho = DoubleArray(group.size)
        val (exact, rest) = group.indices.partition { group[it].exact }
        if (exact.isNotEmpty()) {
            val slopes = core.slopes(batches, exact.map { group[it].direction }, task.epsilon, task.exitSegment)
            for ((i, index) in exact.withIndex()) rho[index] = slopes[i]
        }
        if (rest.isNotEmpty()) {
            val objective = Objective(task.exitSegment, task.globalWeight)
            val measured = core.measure(batches, rest.map { group[it].direction }, task.epsilon, objective)
            for ((i, index) in rest.withIndex()) rho[index] = measured.rho[i]
        }
        return rho
    }

    /** One local step, theta <- theta - rate * mean_j(rho_j z'_j), with the scalars in wire form and no others. */
    private fun move(
        task: DirectionsTask,
        step: Step,
        scalars: List<Double>,
    ) {
        val coefficients = DoubleArray(scalars.size) { -step.localLearningRate * scalars[it] / scalars.size }
        val directions = step.directions.map { it.direction }
        val active = task.activeSegments
        core.update(Update(task.epsilon, step.updateSeed, directions, coefficients, activeSegments = active))
    }

    companion object {
        /** Of Philox; 0 and 1 are the adapter's noise and rounding. */
        private const val BATCH_STREAM = 2

        /** What a scalar becomes before it leaves: clipped to |rho| <= clip, noised, rounded to float32, in this order. */
        fun wireForm(
            rho: Double,
            form: ScalarForm,
            gauss: () -> Double,
        ): Double {
            var value = rho
            if (form.clip > 0) value = value.coerceIn(-form.clip, form.clip)
            if (form.noiseStd > 0) value += form.noiseStd * gauss()
            val rounded = value.toFloat().toDouble()
            if (rounded.isFinite()) return rounded
            throw LossNotFinite("a projected gradient is beyond float32: use a smaller learning rate, or a clip")
        }

        /**
         * Positions of the distinct examples of a batch: all of them, in drawn order, when there are fewer than asked.
         *
         * Example i draws the 64-bit number made of words 2 (i mod 2) and 2 (i mod 2) + 1 (low word first) of block
         * i div 2 of Philox stream 2 under the seed; the smallest numbers are chosen, the smaller position first among
         * equals.
         */
        fun drawBatch(
            batchSeed: Long,
            batchExamples: Int,
            available: Int,
        ): IntArray {
            val words = IntArray(2 * (available + 1))
            for (block in 0 until (available + 1) / 2) {
                Philox.block(batchSeed, BATCH_STREAM, block.toLong(), words, 4 * block)
            }

            fun drawn(i: Int) = words[2 * i].toUInt().toULong() or (words[2 * i + 1].toUInt().toULong() shl 32)
            return (0 until available).sortedBy { drawn(it) }.take(batchExamples).toIntArray()
        }

        /** The mean loss in nats and the number of right answers and targets, over all held-out examples. */
        fun evaluate(
            core: Core,
            heldOut: Examples,
            exitSegment: Int = 0,
        ): Evaluation {
            var lossSum = 0.0
            var count = 0.0
            var correct = 0L
            val rows = core.chain.shape.batchExamples
            for (start in 0 until heldOut.count step rows) { // one batch in memory at a time
                val chosen = IntArray(minOf(rows, heldOut.count - start)) { start + it }
                val sums = core.evaluate(heldOut.batches(chosen), Objective(exitSegment))
                lossSum += sums.lossSum
                count += sums.count
                correct += sums.correct
            }
            if (!lossSum.isFinite()) throw LossNotFinite("the loss is not finite: publish an earlier adapter version")
            return Evaluation(lossSum, count, correct)
        }
    }
}
