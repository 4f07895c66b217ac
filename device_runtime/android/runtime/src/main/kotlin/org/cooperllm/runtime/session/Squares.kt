package org.cooperllm.runtime.session

/** What is kept of a form in one segment: sums in units of [unit]^2, the square of its largest entry. */
internal class Facts(
    val unit: Double,
    val least: Double,
    val most: Double,
    val spread: Double,
    val parameters: Int,
) {
    companion object {
        /** Of the least and the largest magnitudes of a segment's entries. */
        fun of(
            low: DoubleArray,
            high: DoubleArray,
        ): Facts {
            val unit = high.fold(0.0, Math::max)
            if (unit == 0.0 || !unit.isFinite()) return Facts(unit, 0.0, 0.0, Double.POSITIVE_INFINITY, high.size)
            val squares = Squares(low, high, unit)
            return Facts(unit, squares.leastSum, squares.mostSum, squares.spread(), high.size)
        }
    }
}

/** Bounds of every z_i^2 of one segment, in units of unit^2, from bounds of |z_i|. */
internal class Squares(
    least: DoubleArray,
    most: DoubleArray,
    unit: Double,
) {
    private val low = DoubleArray(least.size) { (least[it] / unit) * (least[it] / unit) }
    private val high = DoubleArray(most.size) { (most[it] / unit) * (most[it] / unit) }
    val leastSum: Double get() = low.sum()
    val mostSum: Double get() = high.sum()

    /**
     * The least number of parameters that can share the segment's energy, (sum z^2)^2 / sum z^4; infinite without any.
     *
     * That is the participation ratio (R. J. Bell and P. Dean, Discuss. Faraday Soc. 50, 1970). A square over a linear
     * function is convex, so at its minimum the entries with the largest p^2 + q^2 are at p + q and the others at
     * |p - q|, but for one in between.
     */
    fun spread(): Double {
        if (low === high || low.contentEquals(high)) return fixedSpread()
        val order = high.indices.sortedByDescending { low[it] + high[it] }
        var energy = low.sum()
        var fourth = low.sumOf { it * it }
        var smallest = Double.POSITIVE_INFINITY
        for (next in 0..order.size) {
            val more = if (next < order.size) high[order[next]] - low[order[next]] else 0.0
            val moreFourth = if (next < order.size) high[order[next]].squared() - low[order[next]].squared() else 0.0
            // The next entry is anywhere between its bounds: (E + t e)^2 / (F + t f) is least at this t in 0 .. 1.
            val best = (energy * moreFourth - 2 * more * fourth) / (more * moreFourth)
            val part = if (best.isNaN()) 0.0 else best.coerceIn(0.0, 1.0)
            val found = (energy + part * more).squared() / (fourth + part * moreFourth)
            if (found < smallest) smallest = found
            energy += more
            fourth += moreFourth
        }
        return if (fourth > 0) smallest else Double.POSITIVE_INFINITY
    }

    private fun fixedSpread(): Double {
        val fourth = high.sumOf { it * it }
        return if (fourth > 0) high.sum().squared() / fourth else Double.POSITIVE_INFINITY
    }

    private fun Double.squared() = this * this
}
