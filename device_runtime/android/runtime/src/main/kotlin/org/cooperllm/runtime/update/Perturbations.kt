package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.DirectionKernels

/**
 * Which perturbation is in each segment's slice of the one adapter, and the way from one to another, in place.
 *
 * A label is 0 for the adapter as it is, +(d+1) or -(d+1) for direction d added or subtracted. All directions passed
 * their check before the first move, so every way back restores the bits.
 */
internal class Perturbations(
    private val chain: Chain,
    private val kernels: DirectionKernels,
) {
    private val at = IntArray(chain.shape.segments + 1)
    private var directions: List<Direction> = emptyList()
    private var epsilon = 0.0

    /** Begins with other directions. Nothing is in the adapter then. */
    fun begin(
        directions: List<Direction>,
        epsilon: Double,
    ) {
        this.directions = directions
        this.epsilon = epsilon
    }

    /** Brings one segment's slice to a label: a sign change takes one pass, everything else goes through 0. */
    fun moveTo(
        segment: Int,
        label: Int,
    ) {
        val current = at[segment]
        if (current == label) return
        val start = System.nanoTime()
        if (current == -label) {
            add(segment, label, if (label > 0) +2 else -2)
        } else {
            if (current != 0) add(segment, current, if (current > 0) -1 else +1)
            if (label != 0) add(segment, label, if (label > 0) +1 else -1)
        }
        at[segment] = label
        chain.counters.perturbNs += System.nanoTime() - start
    }

    /** Takes every perturbation out again: the adapter is the same as before [begin], bit for bit. */
    fun restore() {
        for (segment in at.indices) moveTo(segment, 0)
    }

    private fun add(
        segment: Int,
        label: Int,
        multiplier: Int,
    ) {
        val tensors = chain.layout.segmentTensors(segment)
        val direction = directions[Math.abs(label) - 1]
        for (i in tensors.indices) kernels.perturb(chain.adapter, tensors[i], direction, epsilon, multiplier)
    }
}
