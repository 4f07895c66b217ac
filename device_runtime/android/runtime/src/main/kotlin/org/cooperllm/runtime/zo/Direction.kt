package org.cooperllm.runtime.zo

/** A guide's values in one segment, in the order of the layout; the segment begins at adapter index [offset]. */
internal class GuideSlice(
    val segment: Int,
    val offset: Int,
    val values: FloatVector,
)

/**
 * A guide u, zero in every segment that it has no slice for. Slices may come and go, a segment at a time: whoever measures
 * along it sees to it that those are held which are needed.
 */
internal class Guide(
    slices: List<GuideSlice> = emptyList(),
) {
    private val slices = slices.toMutableList()

    /** The bytes of the slices that are held. */
    val heldBytes: Long get() = slices.sumOf { Float.SIZE_BYTES.toLong() * it.values.count }

    /** Holds a segment's values, in place of those before. */
    fun hold(
        layout: Layout,
        segment: Int,
        values: FloatVector,
    ) {
        require(values.count == layout.segmentCount(segment)) { "a value for each parameter of the segment" }
        drop(segment)
        slices += GuideSlice(segment, layout.segmentOffset(segment), values)
    }

    /** Lets go of a segment's values. */
    fun drop(segment: Int) {
        slices.removeAll { it.segment == segment }
    }

    /** The values in a segment, null where they are all zero. */
    fun slice(segment: Int): GuideSlice? {
        for (i in slices.indices) if (slices[i].segment == segment) return slices[i]
        return null
    }

    companion object {
        /** The guide whose values in a segment are [values]'s, each as long as the segment. */
        fun of(
            layout: Layout,
            values: Map<Int, FloatVector>,
        ): Guide = Guide().also { for ((segment, slice) in values) it.hold(layout, segment, slice) }
    }
}

/** c * u. */
internal class GuideTerm(
    val guide: Guide,
    val coefficient: Double,
)

/**
 * z = isotropicScale * s (.) v(seed) + sum_j c_j * u_j, restricted to the active segments.
 *
 * [scale] is s: n positive values over the whole adapter, null for 1. [activeSegments] null means all. In segments
 * before [boundary] the noise is v([prefixSeed]) instead: directions that share it share what they do there (the first
 * block of FedSPZO, arXiv 2502.10239).
 */
internal class Direction(
    val seed: Long,
    val isotropicScale: Double = 1.0,
    val scale: FloatVector? = null,
    val guides: List<GuideTerm> = emptyList(),
    private val activeSegments: IntArray? = null,
    val boundary: Int = 0,
    val prefixSeed: Long = 0,
) {
    /** The seed of the noise in a segment. */
    fun seedIn(segment: Int): Long = if (segment < boundary) prefixSeed else seed

    /** Whether the direction may be non-zero in a segment. */
    fun isActive(segment: Int): Boolean = activeSegments == null || segment in activeSegments

    /** Whether z is +c or -c everywhere in a segment. */
    fun isConstant(segment: Int): Boolean {
        if (scale != null) return false
        for (j in guides.indices) if (guides[j].guide.slice(segment) != null) return false
        return true
    }

    /** Whether every scalar of it is finite. */
    fun isFinite(): Boolean = isotropicScale.isFinite() && guides.all { it.coefficient.isFinite() }
}
