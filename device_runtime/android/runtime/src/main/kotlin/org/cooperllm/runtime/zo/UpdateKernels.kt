package org.cooperllm.runtime.zo

/**
 * One step of the adapter: theta + sum_j coefficient_j * z'_j + sum_k c_k * u_k, rounded stochastically.
 *
 * [coefficients] has one entry a direction; [updateSeed] keys the rounding; parameters outside [activeSegments] (null:
 * all) do not move.
 */
internal class Update(
    val epsilon: Double,
    val updateSeed: Long,
    val directions: List<Direction>,
    val coefficients: DoubleArray,
    val guides: List<GuideTerm> = emptyList(),
    private val activeSegments: IntArray? = null,
) {
    /** Whether the parameters of a segment move. */
    fun isActive(segment: Int): Boolean = activeSegments == null || segment in activeSegments

    /** Whether its numbers make sense: OK, BAD_ARGUMENT, or NOT_FINITE for a coefficient. */
    fun status(): ZoStatus =
        when {
            coefficients.size != directions.size -> ZoStatus.BAD_ARGUMENT
            !DirectionKernels.isEpsilon(epsilon) -> ZoStatus.BAD_ARGUMENT
            directions.any { !it.isFinite() } -> ZoStatus.BAD_ARGUMENT
            coefficients.any { !it.isFinite() } || guides.any { !it.coefficient.isFinite() } -> ZoStatus.NOT_FINITE
            else -> ZoStatus.OK
        }
}

/**
 * An update on one tensor: first a check that writes nothing, then the step.
 *
 * x = sum_j (coefficient_j / epsilon) * k_j + sum_k (c_k * 2^e) * u_k, in this order from 0.0;
 * d = floor(x + (b + 1/2) / 65536) with b the parameter's 16 random bits; t = theta * 2^e + d, clamped to
 * [-(2^23 - 1), 2^23 - 1]; theta = t * 2^-e. So E[d] = x up to 2^-17: steps below the grid do not vanish.
 *
 * Owns scratch memory of a fixed size and allocates nothing: one thread at a time.
 */
internal class UpdateKernels(
    private val directions: DirectionKernels,
) {
    private val noise = Noise(DirectionKernels.CHUNK)
    private val x = DoubleArray(DirectionKernels.CHUNK)
    private val bits = IntArray(DirectionKernels.CHUNK)
    private val values = FloatArray(DirectionKernels.CHUNK)

    /** Whether [apply] may follow: OK, BAD_ARGUMENT, NOT_FINITE, or OUT_OF_RANGE where |k| would be 2^23 or more. */
    fun check(
        tensor: LayoutTensor,
        update: Update,
    ): ZoStatus {
        var status = update.status()
        if (status != ZoStatus.OK) return status
        var start = tensor.offset
        while (start < tensor.end) {
            val count = DirectionKernels.chunkFrom(start, tensor.end)
            val found = fillSteps(tensor, update, start, count)
            if (status != ZoStatus.NOT_FINITE && found != ZoStatus.OK) status = found
            start += count
        }
        return status
    }

    /** Steps a tensor whose [check] was OK, in place. Returns how many parameters were clamped at the bound. */
    fun apply(
        adapter: FloatVector,
        tensor: LayoutTensor,
        update: Update,
    ): Int {
        var clamped = 0
        var start = tensor.offset
        while (start < tensor.end) {
            val count = DirectionKernels.chunkFrom(start, tensor.end)
            fillSteps(tensor, update, start, count)
            noise.fillHalfWords(update.updateSeed, start.toLong(), count, bits)
            adapter.read(start, values, count)
            clamped += step(tensor.exponent, count)
            adapter.write(start, values, count)
            start += count
        }
        return clamped
    }

    /** Moves the chunk in [values] by [x] and [bits]. */
    private fun step(
        exponent: Int,
        count: Int,
    ): Int {
        val stepsPerUnit = Grid.powerOfTwo(exponent)
        val unit = Grid.powerOfTwo(-exponent)
        var clamped = 0
        for (i in 0 until count) x[i] += (bits[i] + 0.5) / HALF_WORDS
        // In a loop of its own, the rounding is done several parameters at a time.
        for (i in 0 until count) x[i] = Math.floor(x[i])
        for (i in 0 until count) {
            var target = values[i].toDouble() * stepsPerUnit + x[i]
            if (Math.abs(target) >= Grid.STEPS) {
                clamped++
                target = if (target > 0) Grid.LAST_STEP else -Grid.LAST_STEP
            }
            values[i] = (target * unit + 0.0).toFloat()
        }
        return clamped
    }

    /** Writes x of a chunk to [x] and answers whether it is finite, and every k on the way in range. */
    private fun fillSteps(
        tensor: LayoutTensor,
        update: Update,
        start: Int,
        count: Int,
    ): ZoStatus {
        val stepsPerUnit = Grid.powerOfTwo(tensor.exponent)
        var isFinite = true
        var isInRange = true
        x.fill(0.0, 0, count)
        for (j in update.directions.indices) {
            val direction = update.directions[j]
            if (!direction.isActive(tensor.segment)) continue
            directions.fill(direction, tensor, start, count)
            isFinite = DirectionKernels.allFinite(directions.z, count) && isFinite
            val weight = update.coefficients[j] / update.epsilon
            isInRange = addRounded(weight, update.epsilon, stepsPerUnit, count) && isInRange
        }
        for (j in update.guides.indices) {
            directions.addGuide(update.guides[j], stepsPerUnit, tensor, start, count, x)
        }
        isFinite = DirectionKernels.allFinite(x, count) && isFinite
        return ZoStatus.of(isFinite, isInRange)
    }

    private fun addRounded(
        weight: Double,
        epsilon: Double,
        stepsPerUnit: Double,
        count: Int,
    ): Boolean {
        val z = directions.z
        var isInRange = true
        for (i in 0 until count) {
            val y = (epsilon * z[i]) * stepsPerUnit
            if (!(Math.abs(y) < Grid.RANGE_END)) isInRange = false
            z[i] = y
        }
        for (i in 0 until count) x[i] += weight * Math.rint(z[i])
        return isInRange
    }

    private companion object {
        const val HALF_WORDS = 65536.0
    }
}
