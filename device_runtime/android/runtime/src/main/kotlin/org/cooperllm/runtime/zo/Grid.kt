package org.cooperllm.runtime.zo

import org.cooperllm.runtime.LayoutMismatch

/** What a kernel answers; the same names as the C++ core's zo_status. */
internal enum class ZoStatus {
    OK,
    OUT_OF_RANGE,
    BELOW_GRID,
    NOT_FINITE,
    OFF_GRID,
    BAD_ARGUMENT,
    ;

    companion object {
        /** Of a pass over values: what is not finite is named before what is out of range. */
        fun of(
            isFinite: Boolean,
            isInRange: Boolean,
        ): ZoStatus =
            when {
                !isFinite -> NOT_FINITE
                !isInRange -> OUT_OF_RANGE
                else -> OK
            }
    }
}

/**
 * The grid: a tensor with exponent e holds multiples of 2^-e, less than 2^23 of them in magnitude.
 *
 * On it float32 addition is exact, so `+k, -2k, +k` restores every bit: |theta| + |k| < 2^24 grid steps, and float32
 * holds every integer up to 2^24.
 */
internal object Grid {
    const val DEFAULT_EXPONENT: Int = 20
    const val MIN_EXPONENT: Int = -100
    const val MAX_EXPONENT: Int = 100

    /** 2^23: every value, in grid steps, is smaller than this in magnitude. */
    const val STEPS: Double = 8388608.0

    /** The largest magnitude in grid steps. */
    const val LAST_STEP: Double = STEPS - 1.0

    /** |rint(y)| >= 2^23 exactly from this |y| on: 2^23 - 1/2 rounds to even. */
    const val RANGE_END: Double = STEPS - 0.5

    private const val HEADROOM = 8.0
    private const val CHUNK = 1024

    /** 2^[exponent], exactly. */
    fun powerOfTwo(exponent: Int): Double = Math.scalb(1.0, exponent)

    /**
     * The largest exponent e with 2^(23-e) >= 8 * [maxMagnitude], at most the default 20.
     *
     * [maxMagnitude] is max|theta| over the tensor. Returns null when it is not finite or too large for any exponent:
     * the caller refuses the tensor.
     */
    fun chooseExponent(maxMagnitude: Double): Int? {
        if (!maxMagnitude.isFinite() || maxMagnitude < 0) return null
        if (maxMagnitude == 0.0) return DEFAULT_EXPONENT
        val room = HEADROOM * maxMagnitude
        val floorLog2 = Math.getExponent(room)
        val ceilLog2 = if (powerOfTwo(floorLog2) == room) floorLog2 else floorLog2 + 1
        val exponent = minOf(DEFAULT_EXPONENT, 23 - ceilLog2)
        return if (exponent < MIN_EXPONENT) null else exponent
    }

    /**
     * Replaces [values] by the grid values nearest to them: rint(value * 2^e) * 2^-e, half to even, zero as +0.0.
     *
     * Answers OUT_OF_RANGE when one is not finite or rounds to 2^23 steps or more; the values then mean nothing.
     */
    fun round(
        values: FloatArray,
        exponent: Int,
    ): ZoStatus {
        val stepsPerUnit = powerOfTwo(exponent)
        val unit = powerOfTwo(-exponent)
        var inRange = true
        for (i in values.indices) {
            val steps = Math.rint(values[i].toDouble() * stepsPerUnit)
            if (!(Math.abs(steps) < STEPS)) inRange = false
            values[i] = (steps * unit + 0.0).toFloat()
        }
        return if (inRange) ZoStatus.OK else ZoStatus.OUT_OF_RANGE
    }

    /**
     * OK when [count] values from index [from] on are finite, below 2^(23-e), on the grid and not -0.0; otherwise the
     * first of NOT_FINITE, OUT_OF_RANGE, OFF_GRID that applies to any of them.
     *
     * -0.0 is refused because -0.0 + k - k is +0.0: it would not survive a restore.
     */
    fun check(
        vector: FloatVector,
        from: Int,
        count: Int,
        exponent: Int,
    ): ZoStatus {
        val stepsPerUnit = powerOfTwo(exponent)
        val values = FloatArray(minOf(CHUNK, count))
        var worst = ZoStatus.OK
        var done = 0
        while (done < count) {
            val size = minOf(values.size, count - done)
            vector.read(from + done, values, size)
            for (i in 0 until size) {
                val status = statusOf(values[i], stepsPerUnit)
                if (status != ZoStatus.OK && rank(status) > rank(worst)) worst = status
            }
            done += size
        }
        return worst
    }

    /**
     * Accepts an adapter of [layout]: length n, every value finite, bounded, on its grid, not -0.0.
     *
     * Raises LayoutMismatch, naming the tensor and the rule: the caller refuses the adapter.
     */
    fun checkAdapter(
        adapter: FloatVector,
        layout: Layout,
    ) {
        if (adapter.count != layout.parameters) {
            val lengths = "${adapter.count} values, not ${layout.parameters}"
            throw LayoutMismatch("the adapter has $lengths: use the bundle it was made for")
        }
        for (tensor in layout.tensors) {
            val bound = "2^${23 - tensor.exponent}"
            val rule =
                when (check(adapter, tensor.offset, tensor.count, tensor.exponent)) {
                    ZoStatus.OK -> continue
                    ZoStatus.NOT_FINITE -> "contains NaN or infinity: use another adapter"
                    ZoStatus.OUT_OF_RANGE -> "has a value of $bound or more: choose a smaller grid exponent"
                    else -> "has a value that is -0.0 or no multiple of 2^-${tensor.exponent}: round it to the grid"
                }
            throw LayoutMismatch("${tensor.name} $rule")
        }
    }

    private fun statusOf(
        value: Float,
        stepsPerUnit: Double,
    ): ZoStatus {
        val steps = value.toDouble() * stepsPerUnit
        return when {
            !value.isFinite() -> ZoStatus.NOT_FINITE
            !(Math.abs(steps) < STEPS) -> ZoStatus.OUT_OF_RANGE
            Math.rint(steps) != steps || value.toRawBits() == Int.MIN_VALUE -> ZoStatus.OFF_GRID
            else -> ZoStatus.OK
        }
    }

    private fun rank(status: ZoStatus): Int =
        when (status) {
            ZoStatus.OK -> 0
            ZoStatus.OFF_GRID -> 1
            ZoStatus.OUT_OF_RANGE -> 2
            else -> 3
        }
}
