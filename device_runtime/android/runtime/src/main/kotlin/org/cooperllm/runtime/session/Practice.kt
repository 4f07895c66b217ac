package org.cooperllm.runtime.session

import org.cooperllm.runtime.OptionError

/** What moves when a device personalises. */
public enum class Moves {
    /** The head alone: quick, as nothing before it has to run again. */
    HEAD,

    /** All segments that have parameters: every direction takes whole forwards. */
    ALL,

    /** The head, where it has parameters; all segments otherwise. */
    HEAD_OR_ALL,
}

/**
 * How to personalise: theta <- theta - rate * mean_j(rho_j z'_j), [directions] a step (Spall 1992; MeZO, arXiv
 * 2305.17333).
 *
 * Raises OptionError for numbers that make no sense: correct the app.
 *
 * @property steps local steps, at most
 * @property directions measured a step
 * @property batchExamples drawn a step
 * @property learningRate at first, of the mean over directions, times directions / parameters. A block of steps that
 * raises the loss is undone and the rate halved, so it has not to be chosen well
 * @property epsilon the length of a direction
 * @property moves which segments
 */
public class Practice
    @JvmOverloads
    constructor(
        public val steps: Int = 160,
        public val directions: Int = 16,
        public val batchExamples: Int = 64,
        public val learningRate: Double = 0.5,
        public val epsilon: Double = 0.01,
        public val moves: Moves = Moves.HEAD_OR_ALL,
    ) {
        init {
            if (minOf(steps, directions, batchExamples) < 1) {
                throw OptionError("personalising takes at least 1 step, direction and example a batch")
            }
            if (!(learningRate > 0 && learningRate.isFinite() && epsilon > 0 && epsilon.isFinite())) {
                throw OptionError("personalising takes a learning rate and an epsilon above 0")
            }
        }

        /** The segments that move, those with parameters alone; [counts] has one number a segment, the head's last. */
        internal fun active(counts: List<Int>): IntArray {
            val head = counts.lastIndex
            val isHead = moves == Moves.HEAD || (moves == Moves.HEAD_OR_ALL && counts[head] > 0)
            val active = counts.indices.filter { counts[it] > 0 && (!isHead || it == head) }
            if (active.isEmpty()) {
                throw OptionError("this bundle's head has no parameters: personalise with Moves.ALL")
            }
            return active.toIntArray()
        }
    }

/**
 * What personalising did. Losses are means in nats.
 *
 * @property isKept false where the result was no better: what was before is still there
 * @property steps that were taken
 * @property examples that were learned from
 * @property lossBefore on these examples
 * @property lossAfter on these examples
 * @property heldOutLossBefore on the tenth that the device holds out; null where that is too few to tell
 * @property heldOutLossAfter the same afterwards
 */
public class Personalised(
    public val isKept: Boolean,
    public val steps: Int,
    public val examples: Int,
    public val lossBefore: Double,
    public val lossAfter: Double,
    public val heldOutLossBefore: Double?,
    public val heldOutLossAfter: Double?,
)
