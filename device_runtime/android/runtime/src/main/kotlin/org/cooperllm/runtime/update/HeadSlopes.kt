package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.DirectionKernels

/** Slopes of the mean loss along directions in the head alone, from its gradient. */
internal class HeadSlopes(
    private val chain: Chain,
    private val kernels: DirectionKernels,
) {
    private val head = chain.shape.segments
    private val gradient = DoubleArray(chain.layout.segmentCount(head))
    private val before = FloatArray(gradient.size)
    private val perturbed = FloatArray(gradient.size)
    private var count = 0.0

    /** Adds a batch's gradient of sum_b w_b loss_b, which [run] adds to an array over the head's parameters. */
    fun add(
        batch: Batch,
        run: (weights: DoubleArray, sum: DoubleArray) -> Unit,
    ) {
        run(batch.weights, gradient)
        for (weight in batch.weights) count += weight
    }

    /** (dL/dtheta) . z' in float64, in the order of the layout. The adapter is the same after it. */
    fun along(
        direction: Direction,
        epsilon: Double,
    ): Double {
        read(before)
        perturb(direction, epsilon, +1)
        read(perturbed)
        perturb(direction, epsilon, -1)
        var sum = 0.0
        // As z' = k * 2^-e / epsilon, and the difference of two grid values is k * 2^-e, exactly.
        for (i in gradient.indices) sum += gradient[i] / count * (perturbed[i] - before[i]).toDouble()
        return sum / epsilon
    }

    private fun read(into: FloatArray) {
        if (into.isNotEmpty()) chain.adapter.read(chain.layout.segmentOffset(head), into, into.size)
    }

    private fun perturb(
        direction: Direction,
        epsilon: Double,
        multiplier: Int,
    ) {
        for (tensor in chain.layout.segmentTensors(head)) {
            kernels.perturb(chain.adapter, tensor, direction, epsilon, multiplier)
        }
    }
}
