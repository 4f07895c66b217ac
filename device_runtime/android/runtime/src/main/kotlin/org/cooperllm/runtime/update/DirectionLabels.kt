package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.Layout

/** Directions as the planner takes them. [head] is the head's number. Keeps its memory from one call to the next. */
internal class DirectionLabels(
    private val layout: Layout,
    private val head: Int,
) {
    private var labels = IntArray(0)

    /**
     * Two strings a direction, + and -, of K + 1 labels each; see [org.cooperllm.runtime.plan.Plan].
     *
     * Before its boundary a direction bears the label of the first that does the same there, so the planner runs that
     * block once for all of them.
     */
    fun of(directions: List<Direction>): IntArray {
        val positions = head + 1
        val size = 2 * directions.size * positions
        if (labels.size == size) labels.fill(0) else labels = IntArray(size)
        var first = 0
        for (d in directions.indices) {
            val direction = directions[d]
            if (direction.boundary == 0 || !direction.doesTheSameBefore(directions[first], positions)) first = d
            for (segment in 0 until positions) {
                if (!direction.isActive(segment) || layout.segmentTensors(segment).isEmpty()) continue
                val label = 1 + if (segment < direction.boundary) first else d
                labels[2 * d * positions + segment] = label
                labels[(2 * d + 1) * positions + segment] = -label
            }
        }
        return labels
    }
}

/** Whether two directions perturb every segment before their boundary alike. */
internal fun Direction.doesTheSameBefore(
    other: Direction,
    positions: Int,
): Boolean =
    boundary == other.boundary &&
        prefixSeed == other.prefixSeed &&
        isotropicScale == other.isotropicScale &&
        scale === other.scale &&
        (0 until positions).all { isActive(it) == other.isActive(it) } &&
        guides.size == other.guides.size &&
        guides.indices.all {
            guides[it].guide === other.guides[it].guide && guides[it].coefficient == other.guides[it].coefficient
        }
