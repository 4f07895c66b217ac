package org.cooperllm.runtime.zo

import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.DirectionBelowGrid
import org.cooperllm.runtime.DirectionOutOfRange
import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.UnsupportedTask

/**
 * The adapter in memory, and what is done to it: checked, perturbed and restored in place, stepped.
 *
 * There is one copy of it. Programs read views of [values]. One thread at a time.
 */
internal class Adapter(
    val layout: Layout,
    val values: FloatVector,
) {
    private val kernels = DirectionKernels()
    private val updates = UpdateKernels(kernels)

    init {
        require(values.count == layout.parameters) { "an adapter as long as its layout" }
    }

    /**
     * Accepts a direction that stays in range and keeps |z' - z| <= 0.02 |z|, z' = k * 2^-e / epsilon.
     *
     * Raises BadArtifact, DirectionOutOfRange, UnsupportedTask, or DirectionBelowGrid with the epsilon or the exponents
     * that would do: the caller refuses the task.
     */
    fun check(
        direction: Direction,
        epsilon: Double,
    ) {
        val sums = RoundingSums()
        val status = addTo(sums, direction, epsilon)
        if (status != ZoStatus.OK) throw refusal(status)
        if (!sums.isFaithful()) throw belowGrid(direction, epsilon)
    }

    /** Adds [multiplier] * k grid steps in one segment; nothing where the direction is not active. */
    fun perturb(
        segment: Int,
        direction: Direction,
        epsilon: Double,
        multiplier: Int,
    ) {
        if (!direction.isActive(segment)) return
        val tensors = layout.segmentTensors(segment)
        for (i in tensors.indices) kernels.perturb(values, tensors[i], direction, epsilon, multiplier)
    }

    /** Adds [multiplier] * k grid steps in all segments. */
    fun perturb(
        direction: Direction,
        epsilon: Double,
        multiplier: Int,
    ) {
        for (i in layout.segments.indices) perturb(layout.segments[i], direction, epsilon, multiplier)
    }

    /**
     * Steps the adapter in place and returns how many parameters were clamped at the bound.
     *
     * Raises BadArtifact, DirectionOutOfRange or UnsupportedTask before anything is written: the caller drops the
     * update.
     */
    fun apply(update: Update): Int {
        val active = layout.tensors.filter { update.isActive(it.segment) }
        // Also where nothing moves, an update that makes no sense is refused.
        var status = update.status()
        for (tensor in active) {
            if (status == ZoStatus.OK) status = updates.check(tensor, update)
        }
        if (status != ZoStatus.OK) throw refusal(status)
        var clamped = 0
        for (tensor in active) clamped += updates.apply(values, tensor, update)
        return clamped
    }

    private fun addTo(
        sums: RoundingSums,
        direction: Direction,
        epsilon: Double,
    ): ZoStatus {
        for (tensor in layout.tensors) {
            if (!direction.isActive(tensor.segment)) continue
            val status = kernels.check(tensor, direction, epsilon, sums)
            if (status != ZoStatus.OK) return status
        }
        return ZoStatus.OK
    }

    private fun belowGrid(
        direction: Direction,
        epsilon: Double,
    ): DirectionBelowGrid {
        val doublings = doublingsNeeded(direction, epsilon)
        if (doublings == null) {
            return DirectionBelowGrid(
                "rounding changes the direction by over 2 % at every epsilon in range: flatten its guide",
            )
        }
        val enough = Math.scalb(epsilon, doublings)
        val advice = "use epsilon $enough, or grid exponents higher by $doublings"
        return DirectionBelowGrid("rounding changes the direction by over 2 %: $advice", enough, doublings)
    }

    /**
     * The smallest d for which epsilon * 2^d passes the check, or null when none does in range.
     *
     * Raising every exponent by d rounds exactly as epsilon * 2^d does, so the answer serves for both.
     */
    private fun doublingsNeeded(
        direction: Direction,
        epsilon: Double,
    ): Int? {
        var doublings = 0
        while (true) {
            val sums = RoundingSums()
            if (addTo(sums, direction, Math.scalb(epsilon, doublings)) != ZoStatus.OK) return null
            if (sums.isFaithful()) return doublings
            doublings++
        }
    }

    private fun refusal(status: ZoStatus): CooperLLMError =
        when (status) {
            ZoStatus.OUT_OF_RANGE -> {
                DirectionOutOfRange("a perturbation is 2^23 grid steps or more: use a smaller epsilon")
            }

            ZoStatus.NOT_FINITE -> {
                BadArtifact("a direction or an update is not finite: drop its guide, scale or coefficient")
            }

            else -> {
                UnsupportedTask("epsilon must be finite and positive, other scalars finite: correct the task")
            }
        }

    companion object {
        /**
         * rho = (L(theta + epsilon z') - L(theta - epsilon z')) / (2 epsilon), the projection of the gradient on z'.
         *
         * J. C. Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient
         * approximation", IEEE TAC 37(3), 1992. Losses are means in nats; rho is in nats a unit of z'.
         *
         * Raises LossNotFinite: the caller reports it.
         */
        fun projectedGradient(
            lossPlus: Double,
            lossMinus: Double,
            epsilon: Double,
        ): Double {
            val rho = (lossPlus - lossMinus) / (2.0 * epsilon)
            if (!rho.isFinite()) {
                throw LossNotFinite("the loss is not finite: use a smaller epsilon or learning rate")
            }
            return rho
        }
    }
}
