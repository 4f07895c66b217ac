package org.cooperllm.runtime.session

import org.cooperllm.runtime.NotEnoughExamples
import org.cooperllm.runtime.update.Examples
import org.cooperllm.runtime.update.LocalUpdate
import org.cooperllm.runtime.zo.AdapterVersion
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.Update
import org.cooperllm.runtime.zo.toHex

/**
 * Local steps that stay on the device, on top of the shared adapter.
 *
 * After every [BLOCK_STEPS] steps the loss on the training examples is looked at: a block that raised it is undone and
 * the rate halved, so no rate has to be chosen. The held-out tenth, where it is large enough to tell, has the last word:
 * a result that is worse there is not kept.
 *
 * Nothing here is reported, and the shared adapter in memory and on disk is the same afterwards, bit for bit. Hold the
 * engine's lock. [onBlock] gets the steps taken so far and the loss after them; between blocks [goOn] is asked.
 */
internal class Personalising(
    private val engine: Engine,
    private val practice: Practice,
    private val goOn: () -> Boolean,
    private val onBlock: (steps: Int, loss: Double) -> Unit = { _, _ -> },
) {
    private val core = engine.core
    private val active = practice.active(engine.segmentCounts)
    private val parameters = active.sumOf { engine.segmentCounts[it] }

    /**
     * Learns from the training examples, from where [before] ended.
     *
     * Raises NotEnoughExamples with fewer than 8, LossNotFinite (use a smaller epsilon), Stopped. The engine's adapter is
     * the same after it, also when it raises.
     */
    fun run(
        private: PrivateExamples,
        before: Personal?,
    ): Pair<Personal, Personalised> {
        if (private.train.count < FEWEST_EXAMPLES) {
            throw NotEnoughExamples("fewer than $FEWEST_EXAMPLES examples to learn from: give more")
        }
        val shared = core.adapter.copy()
        try {
            before?.applyTo(core.adapter, engine.bundle.layout)
            val train = private.trainFrom(active[0], core)
            val judged = private.heldOut.takeIf { it.count >= FEWEST_EXAMPLES }
            val heldOutBefore = judged?.let(::lossOn)
            val firstStep = before?.steps ?: 0
            val walk = practise(train, firstStep)
            val heldOutAfter = judged?.let(::lossOn)
            val isWorse = heldOutBefore != null && heldOutAfter != null && heldOutAfter > heldOutBefore
            val found =
                Personalised(
                    walk.lossAfter < walk.lossBefore && !isWorse,
                    walk.steps,
                    private.train.count,
                    walk.lossBefore,
                    walk.lossAfter,
                    heldOutBefore,
                    heldOutAfter,
                )
            val sharedSha256 = AdapterVersion.sha256(shared).toHex()
            val difference = FloatArray(shared.count).also { core.adapter.read(0, it, it.size) }
            val values = FloatArray(shared.count).also { shared.read(0, it, it.size) }
            for (i in difference.indices) difference[i] -= values[i]
            return Personal(engine.bundle.sha256, sharedSha256, firstStep + walk.steps, difference) to found
        } finally {
            core.adapter.copyFrom(shared)
        }
    }

    private class Walk(
        val lossBefore: Double,
        val lossAfter: Double,
        val steps: Int,
    )

    /** Moves the engine's adapter. Seeds follow from a step's number. */
    private fun practise(
        train: Examples,
        firstStep: Int,
    ): Walk {
        val seen = First(train)
        var rate = practice.learningRate * practice.directions / parameters
        val start = lossOn(seen)
        var lowest = start
        val best = core.adapter.copy()
        var step = firstStep
        val last = firstStep + practice.steps
        while (step < last && goOn()) {
            repeat(minOf(BLOCK_STEPS, last - step)) { step(train, step++, rate) }
            val loss = lossOn(seen)
            if (loss < lowest) {
                lowest = loss
                rate *= GROWTH
                best.copyFrom(core.adapter)
            } else {
                core.adapter.copyFrom(best)
                rate /= 2
            }
            onBlock(step - firstStep, loss)
        }
        return Walk(start, lowest, step - firstStep)
    }

    private fun step(
        train: Examples,
        step: Int,
        rate: Double,
    ) {
        val batches = train.batches(LocalUpdate.drawBatch(step.toLong(), practice.batchExamples, train.count))
        val firstSeed = step.toLong() * practice.directions
        val directions = List(practice.directions) { Direction(firstSeed + it, activeSegments = active) }
        val rho = core.measure(batches, directions, practice.epsilon).rho
        val coefficients = DoubleArray(rho.size) { -rate * rho[it] / rho.size }
        core.update(Update(practice.epsilon, step.toLong(), directions, coefficients, activeSegments = active))
    }

    private fun lossOn(examples: Examples): Double {
        val found = LocalUpdate.evaluate(core, examples)
        return found.lossSum / found.count
    }

    /** The first examples of a set, as many as are looked at after every block. */
    private class First(
        private val examples: Examples,
    ) : Examples {
        override val count: Int get() = minOf(examples.count, MOST_EVALUATED)

        override val firstSegment: Int get() = examples.firstSegment

        override fun batches(chosen: IntArray) = examples.batches(chosen)
    }

    private companion object {
        const val FEWEST_EXAMPLES = 8
        const val BLOCK_STEPS = 8
        const val MOST_EVALUATED = 256
        const val GROWTH = 1.25
    }
}
