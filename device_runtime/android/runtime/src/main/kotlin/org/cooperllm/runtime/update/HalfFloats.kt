package org.cooperllm.runtime.update

/**
 * IEEE 754 half precision (binary16), rounded half to even, as NumPy and C++ do it: values of up to 65,504, others become
 * infinite. Java has this from version 20 on, and phones have not.
 */
internal object HalfFloats {
    /** The largest one. */
    const val MOST: Float = 65504f

    private const val MAGNITUDE = 0x7FFFFFFF
    private const val INFINITY = 0x7F800000
    private const val HALF_INFINITY = 0x7C00
    private const val HALF_SIGN = 0x8000
    private const val DROPPED_BITS = 13
    private const val SIGN_SHIFT = 16

    /** Half of the last kept bit, less one. */
    private const val ROUNDING = 0xFFF

    /** 65,520: halfway between the largest half and the next, which there is not. */
    private const val OVERFLOWS = 0x477FF000

    /** 2^-14, the smallest that is not subnormal. */
    private const val SMALLEST_NORMAL = 0x38800000

    /** What the exponents' biases, 127 and 15, differ by, in place. */
    private const val BIAS = 0x38000000
    private const val ONE_HALF = 0x3F000000
    private const val STEP = 5.9604644775390625e-8f // 2^-24

    /** The bits of the nearest half, in the lower 16. */
    fun toBits(value: Float): Int {
        val bits = value.toRawBits()
        val sign = bits ushr SIGN_SHIFT and HALF_SIGN
        val magnitude = bits and MAGNITUDE
        return sign or
            when {
                magnitude > INFINITY -> {
                    HALF_INFINITY or (magnitude ushr DROPPED_BITS and 0x3FF).coerceAtLeast(1)
                }

                magnitude >= OVERFLOWS -> {
                    HALF_INFINITY
                }

                // The steps of [0.5, 1) are 2^-24, which are the steps of subnormal halves: the addition rounds.
                magnitude < SMALLEST_NORMAL -> {
                    (Float.fromBits(magnitude) + 0.5f).toRawBits() - ONE_HALF
                }

                else -> {
                    (magnitude + ROUNDING + (magnitude ushr DROPPED_BITS and 1) - BIAS) ushr DROPPED_BITS
                }
            }
    }

    /** The value of a half's bits; exact. */
    fun fromBits(bits: Int): Float {
        val sign = bits and HALF_SIGN shl SIGN_SHIFT
        val magnitude = bits and MAGNITUDE and HALF_SIGN.inv()
        val widened =
            when {
                magnitude >= HALF_INFINITY -> INFINITY or (magnitude and 0x3FF shl DROPPED_BITS)
                magnitude < 1 shl HALF_FRACTION -> (magnitude * STEP).toRawBits()
                else -> (magnitude shl DROPPED_BITS) + BIAS
            }
        return Float.fromBits(sign or widened)
    }

    private const val HALF_FRACTION = 10
}
