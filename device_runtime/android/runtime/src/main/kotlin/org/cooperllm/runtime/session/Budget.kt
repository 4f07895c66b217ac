package org.cooperllm.runtime.session

import org.cooperllm.protos.Direction
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.DisclosureBudget
import org.cooperllm.protos.ScoreSegmentsTask
import org.cooperllm.runtime.BudgetExceeded
import org.cooperllm.runtime.NotEnoughExamples
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.UnsupportedTask

/**
 * What a device is willing to disclose in one round, whatever the cloud asks for.
 *
 * A projected gradient is one linear equation about the gradient of the device's batch. As many of them as there are
 * parameters would hand the gradient over, and with it labels and features of a small batch. So the device counts them,
 * per round and over all tasks of the round, and refuses a task that would go beyond. A refused task costs nothing.
 *
 * Raises OptionError when a number is negative, or when a batch could be smaller than 8 examples: correct the app.
 *
 * @property maxScalarsPerRound null: 1 % of the adapter's parameters, at most 4,096
 * @property maxHeadScalarsPerRound of directions that measure the head alone, or above all
 * @property minBatchExamples distinct examples behind every number that leaves
 */
public class Budget
    @JvmOverloads
    constructor(
        public val maxScalarsPerRound: Int? = null,
        public val maxHeadScalarsPerRound: Int = HEAD_SCALARS,
        public val minBatchExamples: Int = SMALLEST_BATCH_EXAMPLES,
    ) {
        init {
            if ((maxScalarsPerRound ?: 0) < 0 || maxHeadScalarsPerRound < 0) {
                throw OptionError("a disclosure budget cannot be negative: use 0 to disclose nothing")
            }
            if (minBatchExamples < SMALLEST_BATCH_EXAMPLES) {
                throw OptionError("minBatchExamples must be at least $SMALLEST_BATCH_EXAMPLES")
            }
        }

        /**
         * The scalars of a round for an adapter of so many parameters. A device that holds no bundle yet does not know them
         * (null) and promises no more than the head's share.
         */
        internal fun scalars(parameters: Int?): Int =
            maxScalarsPerRound
                ?: if (parameters == null) HEAD_SCALARS else maxOf(1, parameters / ONE_OF).coerceAtMost(MOST_SCALARS)

        /** What a check-in tells the cloud, so that it plans within it. */
        internal fun message(parameters: Int?): DisclosureBudget =
            DisclosureBudget
                .newBuilder()
                .setMaxScalarsPerRound(scalars(parameters))
                .setMaxHeadScalarsPerRound(maxHeadScalarsPerRound)
                .setMinBatchExamples(minBatchExamples)
                .build()

        private companion object {
            const val SMALLEST_BATCH_EXAMPLES = 8
            const val HEAD_SCALARS = 64
            const val MOST_SCALARS = 4096
            const val ONE_OF = 100
        }
    }

/** How many scalars a task asks for, and how many of them count as the head's alone. */
internal data class Cost(
    val scalars: Long,
    val headScalars: Long,
) {
    companion object {
        val NOTHING = Cost(0, 0)
    }
}

/** The checks of one task against a budget and what its round disclosed so far: scalars, and of these the head's alone. */
internal class Allowance(
    private val budget: Budget,
    parameters: Int,
    private val disclosed: List<Int>,
) {
    private val limit = budget.scalars(parameters)

    /** Decides about a directions task. Raises BudgetExceeded, NotEnoughExamples or UnsupportedTask: report it. */
    fun checkDirections(
        task: DirectionsTask,
        head: Int,
        trainExamples: Int,
    ) {
        if (task.stepsCount == 0 || task.stepsList.any { it.directionsCount == 0 }) {
            throw UnsupportedTask("a task needs at least one step, and every step at least one direction")
        }
        checkScalars(disclosureOf(task, head))
        checkBatch(task.stepsList.minOf { it.batchExamples })
        checkExamples(trainExamples, "training")
    }

    /** Raises BudgetExceeded when the round would disclose too many. */
    fun checkScalars(wanted: Cost) {
        if (disclosed[0] + wanted.scalars > limit) {
            throw BudgetExceeded(
                "${wanted.scalars} scalars asked, ${disclosed[0]} disclosed in this round, limit $limit: ask for fewer",
            )
        }
        if (disclosed[1] + wanted.headScalars > budget.maxHeadScalarsPerRound) {
            throw BudgetExceeded(
                "${wanted.headScalars} scalars in the head alone asked, ${disclosed[1]} disclosed in this round, " +
                    "limit ${budget.maxHeadScalarsPerRound}: ask for fewer",
            )
        }
    }

    /** Decides as [checkDirections] about scores of the segments, of which each counts as a scalar. */
    fun checkScores(
        task: ScoreSegmentsTask,
        segments: Int,
        trainExamples: Int,
    ): Cost {
        if (disclosed[0] + segments > limit) {
            throw BudgetExceeded(
                "$segments segment scores asked, ${disclosed[0]} scalars disclosed in this round, limit $limit: " +
                    "ask in another round",
            )
        }
        checkBatch(task.batchExamples)
        checkExamples(trainExamples, "training")
        return Cost(segments.toLong(), 0)
    }

    /** Raises NotEnoughExamples when a number about these examples would say too much about each of them. */
    fun checkExamples(
        examples: Int,
        which: String,
    ) {
        if (examples < budget.minBatchExamples) {
            throw NotEnoughExamples(
                "fewer than ${budget.minBatchExamples} distinct $which examples: give this device work when it has more",
            )
        }
    }

    private fun checkBatch(batchExamples: Int) {
        if (batchExamples < budget.minBatchExamples) {
            throw BudgetExceeded(
                "a batch of $batchExamples examples asked, at least ${budget.minBatchExamples} disclosed about: " +
                    "ask for larger batches",
            )
        }
    }

    /** Counts by segments, without expanding anything that the cloud could have made huge. */
    private fun disclosureOf(
        task: DirectionsTask,
        head: Int,
    ): Cost {
        val guideSegments = task.guidesList.associate { it.sha256 to it.segmentsList.toSet() }
        val directions = task.stepsList.flatMap { it.directionsList }
        val ofHead =
            directions.filter { direction ->
                segmentsOf(direction, task).all { segment ->
                    segment == head ||
                        (
                            direction.isotropicScale == 0.0 &&
                                direction.guidesList.none { segment in guideSegments[it.guideSha256].orEmpty() }
                        )
                }
            }
        return Cost(directions.sumOf { countOf(it) }, ofHead.sumOf { countOf(it) })
    }
}

/** The segments in which a direction may be active. */
internal fun segmentsOf(
    direction: Direction,
    task: DirectionsTask,
): List<Int> = direction.activeSegmentsList.ifEmpty { task.activeSegmentsList }

/** Its scalars: uint32, never taken for negative. */
internal fun countOf(direction: Direction): Long = maxOf(1L, direction.count.toLong() and 0xFFFFFFFFL)
