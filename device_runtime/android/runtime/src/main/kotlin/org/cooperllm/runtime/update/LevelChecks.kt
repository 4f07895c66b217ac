package org.cooperllm.runtime.update

import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.DirectionKernels
import org.cooperllm.runtime.zo.Grid
import org.cooperllm.runtime.zo.RoundingSums
import org.cooperllm.runtime.zo.ZoStatus

/**
 * What [CoreChecks] looks at of directions, for a measurement in streaming order: a segment at a time, and the whole at
 * its end. [labels] are two strings a direction.
 */
internal class LevelChecks(
    private val chain: Chain,
    private val kernels: DirectionKernels,
    private val labels: IntArray,
    private val directions: List<Direction>,
    private val epsilon: Double,
) {
    private val sums = List(directions.size) { RoundingSums() }

    /** Raises UnsupportedTask for what no guide could make right. */
    fun checkScalars() {
        if (directions.isEmpty()) throw UnsupportedTask("no direction was given")
        val areGood = DirectionKernels.isEpsilon(epsilon) && directions.all { it.isFinite() }
        if (!areGood) throw refusalOf(ZoStatus.BAD_ARGUMENT, "a direction")
    }

    /**
     * Checks one segment's slices of every direction that is perturbed there under its own name, before the first add.
     * Raises BadArtifact, DirectionOutOfRange or UnsupportedTask.
     */
    fun checkLevel(segment: Int) {
        val tensors = chain.layout.segmentTensors(segment)
        for (d in directions.indices) {
            if (!isOwn(d, segment)) continue
            for (tensor in tensors) {
                val status = kernels.check(tensor, directions[d], epsilon, sums[d])
                if (status != ZoStatus.OK) throw refusalOf(status, "direction $d")
            }
        }
    }

    /**
     * Refuses directions that drowned in the grid, when their guides are gone: the epsilon that is named does whatever
     * rounding would then take, half a step a parameter. Raises DirectionBelowGrid.
     */
    fun checkFaithful() {
        for (d in directions.indices) {
            if (sums[d].isFaithful()) continue
            val moved = chain.layout.tensors.filter { isOwn(d, it.segment) }
            val mostError = moved.sumOf { it.count * Grid.powerOfTwo(-2 * (it.exponent + 1)) }
            val enough = (0 until MOST_DOUBLINGS).firstOrNull { sums[d].isFaithfulWith(mostError, it) }
            val doublings = enough ?: MOST_DOUBLINGS
            throw belowGrid("direction $d", Math.scalb(epsilon, doublings), doublings)
        }
    }

    private fun isOwn(
        direction: Int,
        segment: Int,
    ) = labels[2 * direction * (chain.shape.segments + 1) + segment] == direction + 1

    private companion object {
        const val MOST_DOUBLINGS = 64
    }
}
