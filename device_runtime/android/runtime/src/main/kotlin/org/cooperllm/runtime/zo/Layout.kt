package org.cooperllm.runtime.zo

import org.cooperllm.runtime.LayoutMismatch
import java.security.MessageDigest

/** One tensor of the adapter: [count] elements from [offset], on the grid of 2^-[exponent]. */
internal class LayoutTensor(
    val name: String,
    val segment: Int,
    val shape: IntArray,
    val offset: Int,
    val exponent: Int,
) {
    /** The number of elements. Raises LayoutMismatch for a shape that no adapter has: refuse the manifest. */
    val count: Int = countOf(name, shape)

    /** The index after the last element. */
    val end: Int get() = offset + count

    private companion object {
        fun countOf(
            name: String,
            shape: IntArray,
        ): Int {
            var count = 1L
            for (size in shape) {
                if (size < 0) throw LayoutMismatch("$name has a negative size: export again")
                count *= size
                if (count > Int.MAX_VALUE) throw LayoutMismatch("$name has 2^31 elements or more: export again")
            }
            return count.toInt()
        }
    }
}

/**
 * Which tensor of which segment sits at which offset of the adapter: ordered by segment, then by name, without gaps.
 *
 * Raises LayoutMismatch when they are not: the caller refuses the manifest.
 */
internal class Layout(
    val tensors: List<LayoutTensor>,
) {
    init {
        var expected = 0
        var previous: LayoutTensor? = null
        for (tensor in tensors) {
            checkTensor(tensor)
            if (previous != null && !isBefore(previous, tensor)) {
                throw LayoutMismatch("layout is not ordered by segment and name at ${tensor.name}: export again")
            }
            if (tensor.offset != expected) {
                throw LayoutMismatch("${tensor.name} is at offset ${tensor.offset}, not $expected: export again")
            }
            if (tensor.count > Int.MAX_VALUE - expected) {
                throw LayoutMismatch("the layout has 2^31 elements or more: export again")
            }
            previous = tensor
            expected += tensor.count
        }
    }

    /** n, the adapter's length. */
    val parameters: Int = tensors.lastOrNull()?.end ?: 0

    /** The segments that own at least one tensor, ascending. */
    val segments: List<Int> = tensors.map { it.segment }.distinct()

    private val bySegment: Map<Int, List<LayoutTensor>> = tensors.groupBy { it.segment }

    /** A segment's tensors, in order; none where it has none. */
    fun segmentTensors(segment: Int): List<LayoutTensor> = bySegment[segment].orEmpty()

    /** Where a segment's parameters begin in the adapter. The segment has tensors. */
    fun segmentOffset(segment: Int): Int = bySegment.getValue(segment).first().offset

    /** How many parameters a segment has. */
    fun segmentCount(segment: Int): Int = segmentTensors(segment).sumOf { it.count }

    /**
     * The layout's SHA-256 in hex.
     *
     * Hashed are UTF-8 lines `name TAB segment TAB d0xd1 TAB offset TAB exponent LF`, one a tensor, in order; the shape
     * is its sizes joined with x (empty for a scalar).
     */
    fun sha256(): String {
        val digest = MessageDigest.getInstance("SHA-256")
        for (tensor in tensors) {
            val shape = tensor.shape.joinToString("x")
            val line = "${tensor.name}\t${tensor.segment}\t$shape\t${tensor.offset}\t${tensor.exponent}\n"
            digest.update(line.toByteArray())
        }
        return digest.digest().toHex()
    }

    private fun checkTensor(tensor: LayoutTensor) {
        if (tensor.name.isEmpty() || tensor.name.any { it in "\t\n\r" }) {
            throw LayoutMismatch("a tensor has no usable name: use one without tabs and line breaks")
        }
        if (tensor.segment < 0) throw LayoutMismatch("${tensor.name} has a negative segment: export again")
        if (tensor.exponent !in Grid.MIN_EXPONENT..Grid.MAX_EXPONENT) {
            throw LayoutMismatch("${tensor.name} has grid exponent ${tensor.exponent}: use one within [-100, 100]")
        }
    }

    private fun isBefore(
        first: LayoutTensor,
        second: LayoutTensor,
    ): Boolean =
        first.segment < second.segment ||
            (first.segment == second.segment && compareCodePoints(first.name, second.name) < 0)
}

/** Compares names by code points, as Python and UTF-8 do; String.compareTo goes by UTF-16 units. */
private fun compareCodePoints(
    first: String,
    second: String,
): Int {
    var at = 0
    while (at < first.length && at < second.length) {
        val one = first.codePointAt(at)
        val other = second.codePointAt(at)
        if (one != other) return one.compareTo(other)
        at += Character.charCount(one)
    }
    return first.length.compareTo(second.length)
}

private const val HEX_DIGITS = "0123456789abcdef"

/** Bytes as lower-case hexadecimal digits, as all hashes are written. */
internal fun ByteArray.toHex(): String {
    val text = StringBuilder(2 * size)
    for (byte in this) text.append(HEX_DIGITS[byte.toInt() shr 4 and 15]).append(HEX_DIGITS[byte.toInt() and 15])
    return text.toString()
}
