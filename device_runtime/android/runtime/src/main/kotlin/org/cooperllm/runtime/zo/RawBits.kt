package org.cooperllm.runtime.zo

/**
 * The raw bits of a coded stream, which come from its end: bit i is bit i mod 8 of byte (size - 1 - i div 8), a number's
 * low bits first. They end where byte [floor] begins; what is missing reads as 0 and makes them damaged.
 */
internal class RawBits(
    private val data: ByteArray,
    private val floor: Int,
) {
    private var back = data.size // what was not read ends here
    private var held = 0L // bits that were read and not used
    private var heldBits = 0

    /** Whether more was taken than there is. */
    var isDamaged: Boolean = false
        private set

    /** The next number of at most 56 bits. */
    fun take(bits: Int): Long {
        while (heldBits < bits) {
            if (back > floor) {
                held = held or ((data[--back].toLong() and BYTE) shl heldBits)
                heldBits += Byte.SIZE_BITS
            } else {
                isDamaged = true
                return 0
            }
        }
        val value = held and (1L shl bits) - 1
        held = held ushr bits
        heldBits -= bits
        return value
    }

    /** A number below [width] in the phased-in binary code. */
    fun phased(width: Long): Long {
        val bits = Long.SIZE_BITS - 1 - width.countLeadingZeroBits()
        val short = (2L shl bits) - width
        val value = take(bits)
        return if (value < short) value else (value shl 1 or take(1)) - short
    }

    /** Whether what was taken ends in the byte at index [front], with zeros up to its beginning. */
    fun endAt(front: Int): Boolean {
        val usedBits = Byte.SIZE_BITS.toLong() * (data.size - back) - heldBits
        val usedBytes = (usedBits + Byte.SIZE_BITS - 1) / Byte.SIZE_BITS
        val padding = (Byte.SIZE_BITS * usedBytes - usedBits).toInt()
        return !isDamaged && (data.size - front).toLong() == usedBytes && held and (1L shl padding) - 1 == 0L
    }

    private companion object {
        const val BYTE = 0xFFL
    }
}
