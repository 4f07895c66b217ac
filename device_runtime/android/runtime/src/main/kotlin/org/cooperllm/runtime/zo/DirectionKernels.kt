package org.cooperllm.runtime.zo

/** What rounding does to a direction: |epsilon (z' - z)|^2 and |epsilon z|^2, summed tensor by tensor. */
internal class RoundingSums {
    var error: Double = 0.0
        private set
    var norm: Double = 0.0
        private set
    val errorLanes = DoubleArray(LANES)
    val normLanes = DoubleArray(LANES)

    /** Begins a tensor: its lanes start from zero. */
    fun beginTensor() {
        errorLanes.fill(0.0)
        normLanes.fill(0.0)
    }

    /** Ends a tensor: its lanes are added in order, in units of 4^-[exponent]. */
    fun endTensor(exponent: Int) {
        val unit = Grid.powerOfTwo(-2 * exponent)
        error += sum(errorLanes) * unit
        norm += sum(normLanes) * unit
    }

    /** Whether |z' - z| is at most 0.02 |z|. Zero everywhere is. */
    fun isFaithful(): Boolean = !(error > MAX_SQUARED_ERROR * norm)

    /** Whether it would be with this squared error, were epsilon doubled so often: |epsilon z| doubles, the error not. */
    fun isFaithfulWith(
        squaredError: Double,
        doublings: Int,
    ): Boolean = !(Math.scalb(squaredError, -2 * doublings) > MAX_SQUARED_ERROR * norm)

    private fun sum(lanes: DoubleArray): Double {
        var total = 0.0
        for (lane in lanes) total += lane
        return total
    }

    companion object {
        /** Parameter i adds to lane i mod 8, so that a sum can be vectorised and is the same everywhere. */
        const val LANES: Int = 8
        private const val MAX_SQUARED_ERROR = 0.0004
    }
}

/**
 * Directions on one tensor: z, the checks before the first perturbation, and the perturbation in place.
 *
 * The direction is the rounded one, k = rint((epsilon * z) * 2^e), half to even. All arithmetic is float64 in the order
 * written; products with 2^e are exact. Owns scratch memory of a fixed size and allocates nothing: one thread at a time.
 */
internal class DirectionKernels {
    /** z of the chunk that was filled last. */
    val z = DoubleArray(CHUNK)

    private val noise = Noise(CHUNK)
    private val signs = FloatArray(CHUNK)
    private val values = FloatArray(CHUNK)

    /**
     * Adds [multiplier] * k grid steps to a tensor of the adapter, in place: theta_i += (multiplier * k_i) * 2^-e.
     *
     * [multiplier] is +1, -1, +2 or -2. Exact, so that +1, -2, +1 restores every bit, for a direction that has passed
     * [check].
     */
    fun perturb(
        adapter: FloatVector,
        tensor: LayoutTensor,
        direction: Direction,
        epsilon: Double,
        multiplier: Int,
    ) {
        val stepsPerUnit = Grid.powerOfTwo(tensor.exponent)
        val unit = multiplier * Grid.powerOfTwo(-tensor.exponent)
        val isConstant = direction.isConstant(tensor.segment)
        val move = (Math.rint((epsilon * direction.isotropicScale) * stepsPerUnit) * unit).toFloat()
        var start = tensor.offset
        while (start < tensor.end) {
            val count = chunkFrom(start, tensor.end)
            if (isConstant) {
                adapter.read(start, values, count)
                noise.fillSigns(direction.seedIn(tensor.segment), start.toLong(), count, signs)
                for (i in 0 until count) values[i] += move * signs[i]
            } else {
                fill(direction, tensor, start, count)
                adapter.read(start, values, count)
                addRounded(epsilon, stepsPerUnit, unit, count)
            }
            adapter.write(start, values, count)
            start += count
        }
    }

    private fun addRounded(
        epsilon: Double,
        stepsPerUnit: Double,
        unit: Double,
        count: Int,
    ) {
        // In a loop of its own, the rounding is done several parameters at a time.
        for (i in 0 until count) z[i] = Math.rint((epsilon * z[i]) * stepsPerUnit)
        for (i in 0 until count) values[i] += (z[i] * unit).toFloat()
    }

    /**
     * Adds one tensor of an active segment to [sums]: y = (epsilon * z) * 2^e, its rounding error and its norm.
     *
     * Answers BAD_ARGUMENT, NOT_FINITE where z is not, or OUT_OF_RANGE where |k| would be 2^23 or more; the sums then
     * mean nothing.
     */
    fun check(
        tensor: LayoutTensor,
        direction: Direction,
        epsilon: Double,
        sums: RoundingSums,
    ): ZoStatus {
        if (!isEpsilon(epsilon) || !direction.isFinite()) return ZoStatus.BAD_ARGUMENT
        val stepsPerUnit = Grid.powerOfTwo(tensor.exponent)
        var isFinite = true
        var isInRange = true
        sums.beginTensor()
        var start = tensor.offset
        while (start < tensor.end) {
            val count = chunkFrom(start, tensor.end)
            fill(direction, tensor, start, count)
            isFinite = allFinite(z, count) && isFinite
            isInRange = addToLanes(epsilon, stepsPerUnit, start, count, sums) && isInRange
            start += count
        }
        sums.endTensor(tensor.exponent)
        return ZoStatus.of(isFinite, isInRange)
    }

    private fun addToLanes(
        epsilon: Double,
        stepsPerUnit: Double,
        start: Int,
        count: Int,
        sums: RoundingSums,
    ): Boolean {
        var isInRange = true
        for (i in 0 until count) {
            val y = (epsilon * z[i]) * stepsPerUnit
            val off = Math.rint(y) - y
            val lane = start + i and RoundingSums.LANES - 1
            sums.errorLanes[lane] += off * off
            sums.normLanes[lane] += y * y
            if (!(Math.abs(y) < Grid.RANGE_END)) isInRange = false
        }
        return isInRange
    }

    /**
     * Writes z of [count] parameters of a tensor from adapter index [start] on to [z].
     *
     * z_i = (isotropicScale * s_i) v_i, then + c_j * u_ji for each guide in order, in float64.
     */
    fun fill(
        direction: Direction,
        tensor: LayoutTensor,
        start: Int,
        count: Int,
    ) {
        noise.fillSigns(direction.seedIn(tensor.segment), start.toLong(), count, signs)
        val isotropic = direction.isotropicScale
        if (direction.scale == null) {
            for (i in 0 until count) z[i] = isotropic * signs[i].toDouble()
        } else {
            direction.scale.read(start, values, count)
            for (i in 0 until count) z[i] = (isotropic * values[i].toDouble()) * signs[i].toDouble()
        }
        for (j in direction.guides.indices) {
            addGuide(direction.guides[j], 1.0, tensor, start, count, z)
        }
    }

    /** Adds (coefficient * [factor]) * u of a chunk to [sum]. A guide that is zero in the segment adds nothing. */
    fun addGuide(
        term: GuideTerm,
        factor: Double,
        tensor: LayoutTensor,
        start: Int,
        count: Int,
        sum: DoubleArray,
    ) {
        val slice = term.guide.slice(tensor.segment) ?: return
        slice.values.read(start - slice.offset, values, count)
        val weight = term.coefficient * factor
        for (i in 0 until count) sum[i] += weight * values[i].toDouble()
    }

    companion object {
        /** Parameters at a time: all scratch memory stays in the fastest cache. */
        const val CHUNK: Int = 1024

        /** How many parameters from [start] on are worked on together: up to a multiple of [CHUNK], or [end]. */
        fun chunkFrom(
            start: Int,
            end: Int,
        ): Int = minOf(end - start, CHUNK - start % CHUNK)

        /** Whether epsilon is finite and positive. */
        fun isEpsilon(epsilon: Double): Boolean = epsilon.isFinite() && epsilon > 0.0

        /** Whether the first [count] values are finite. */
        fun allFinite(
            values: DoubleArray,
            count: Int,
        ): Boolean {
            var isFinite = true
            for (i in 0 until count) if (!(Math.abs(values[i]) <= Double.MAX_VALUE)) isFinite = false
            return isFinite
        }
    }
}
