package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.Direction
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.runtime.BudgetExceeded
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import kotlin.math.abs

/** What a task's directions are made of: the scale (n), null for 1, and its guides by hash and segment. */
internal class Supplies(
    val scale: FloatVector?,
    val guides: Map<ByteString, Map<Int, FloatVector>>,
)

/** All of a direction but its seeds. Equal forms are looked at once. */
internal data class Form(
    val isotropicScale: Double,
    val guides: List<Pair<ByteString, Double>>,
    val activeSegments: List<Int>,
    val boundary: Int,
    val exact: Boolean,
)

/**
 * Where a direction's energy lies: what a scale or a guide of the cloud's could turn a direction into.
 *
 * By its segments a direction may cover the whole adapter and yet measure the head alone, or count a label. So once scale
 * and guides are here, and before anything is measured, the device looks at every form of direction that a task names.
 * With p = |isotropic_scale| s and q = |sum_j c_j u_j|, an entry of z is between |p - q| and p + q in magnitude, whatever
 * the noise's signs. That bounds
 *
 *     share    of |z|^2 that is the head's: at most H / (H + R), H = sum_head (p + q)^2, R = sum_rest (p - q)^2
 *     spread   (sum z^2)^2 / sum z^4 of a segment: see [Squares]
 *
 *     share above 1/2       the scalar counts as one of the head's alone
 *     no noise, or other    the same: differences of guides can be anything
 *     guides than before
 *     spread below 8        the task is refused; below 1/64 of a segment of fewer than 512 parameters
 *     noise used twice,     the task is refused: the difference of two scalars would be about what differs;
 *     in different forms    directions without noise count as having the same
 *
 * Noise before a `boundary` may be that of other directions and vanish from a difference, so a share is taken from there
 * on.
 */
internal class Concentration(
    private val task: DirectionsTask,
    private val supplies: Supplies,
    private val layout: Layout,
    private val head: Int,
) {
    /**
     * Counts the task's scalars by where the energy of their directions lies. Raises BudgetExceeded where a direction is
     * concentrated on too few parameters, or repeats noise: report it, nothing was disclosed.
     */
    fun weigh(): Cost {
        checkNoise()
        var scalars = 0L
        var headScalars = 0L
        val weighed = mutableMapOf<Form, Boolean>()
        var guided = emptyList<Pair<ByteString, Double>>() // the first combination of guides
        for ((direction, form) in forms()) {
            guided = guided.ifEmpty { form.guides }
            val ofHead =
                weighed.getOrPut(form) { isOfHead(form) || (form.guides.isNotEmpty() && form.guides != guided) }
            scalars += countOf(direction)
            if (ofHead) headScalars += countOf(direction)
        }
        return Cost(scalars, headScalars)
    }

    private fun forms(): List<Pair<Direction, Form>> =
        task.stepsList.flatMap { it.directionsList }.map { direction ->
            val terms = direction.guidesList.map { it.guideSha256 to it.coefficient }
            val active = segmentsOf(direction, task)
            direction to Form(direction.isotropicScale, terms, active, direction.boundary, direction.exact)
        }

    /** Whether scalars of this form count as the head's alone. Raises BudgetExceeded. */
    private fun isOfHead(form: Form): Boolean {
        val squares = squares(form)
        for ((segment, bounds) in squares) {
            val wanted = minOf(LEAST_SPREAD, SMALL_SEGMENT_FRACTION * bounds.count)
            val found = bounds.spread()
            if (found < wanted) {
                throw BudgetExceeded(
                    "a direction lies on ${Math.round(found * 10) / 10.0} parameters of segment $segment in effect, " +
                        "at least $wanted disclosed about: spread its scale or guide",
                )
            }
        }
        val rest = squares.filterKeys { it != head && it >= form.boundary }.values.sumOf { it.leastSum }
        val ofHead = squares[head]?.mostSum ?: 0.0
        return form.isotropicScale == 0.0 || ofHead > LARGEST_SHARE * (ofHead + rest)
    }

    /** Bounds of z_i^2 by segment, in units of the largest z_i^2, so that no power overflows. Raises UnsupportedTask. */
    private fun squares(form: Form): Map<Int, Squares> {
        val bounds = form.activeSegments.associateWith { magnitudes(form, it) }
        val largest = bounds.values.maxOfOrNull { (_, most) -> most.fold(0.0, Math::max) } ?: 0.0
        if (!largest.isFinite()) {
            throw UnsupportedTask("a direction is not finite: correct the task's scale, guides or coefficients")
        }
        val unit = if (largest == 0.0) 1.0 else largest
        return bounds.mapValues { (_, both) -> Squares(both.first, both.second, unit) }
    }

    /** The least and the largest magnitude of each entry of z in a segment, whatever the noise's signs. */
    private fun magnitudes(
        form: Form,
        segment: Int,
    ): Pair<DoubleArray, DoubleArray> {
        val count = layout.segmentCount(segment)
        val noise = DoubleArray(count) { abs(form.isotropicScale) }
        if (supplies.scale != null && count > 0) {
            val scale = valuesOf(supplies.scale, layout.segmentOffset(segment), count)
            for (i in 0 until count) noise[i] *= scale[i].toDouble()
        }
        if (form.guides.isEmpty()) return noise to noise
        val guided = DoubleArray(count)
        for ((sha256, coefficient) in form.guides) {
            val guide =
                supplies.guides[sha256]
                    ?: throw UnsupportedTask("a direction names a guide that was not sent: correct the task")
            val slice = valuesOf(guide[segment] ?: continue, 0, count)
            for (i in 0 until count) guided[i] += coefficient * slice[i]
        }
        val least = DoubleArray(count) { abs(noise[it] - abs(guided[it])) }
        return least to DoubleArray(count) { noise[it] + abs(guided[it]) }
    }

    private fun valuesOf(
        vector: FloatVector,
        from: Int,
        count: Int,
    ): FloatArray = FloatArray(count).also { vector.read(from, it, count) }

    /** Raises BudgetExceeded when directions of different forms have the same noise, or none. */
    private fun checkNoise() {
        // Seeds are unsigned; from start to end, both included, so that the last seed of all is one, too.
        val ranges = mutableListOf<Triple<ULong, ULong, Form>>()
        val silent = mutableSetOf<Form>()
        for ((direction, form) in forms()) {
            if (form.isotropicScale == 0.0) {
                silent += form
                continue
            }
            val start = direction.seed.toULong()
            val last = start + (countOf(direction) - 1).toULong()
            if (last < start) { // seeds wrap
                ranges += Triple(start, ULong.MAX_VALUE, form)
                ranges += Triple(0UL, last, form)
            } else {
                ranges += Triple(start, last, form)
            }
        }
        var repeated = silent.size > 1
        var before: Pair<ULong, Form>? = null
        for ((start, last, form) in ranges.sortedWith(compareBy({ it.first }, { it.second }))) {
            // Whatever overlaps so far is of one form.
            val reached = before
            if (reached != null && start <= reached.first && form != reached.second) repeated = true
            if (reached == null || last >= reached.first) before = last to form
        }
        if (repeated) {
            throw BudgetExceeded(
                "directions that differ have the same noise, so their difference would tell about a few parameters: " +
                    "give each seeds of its own",
            )
        }
    }

    private companion object {
        const val LARGEST_SHARE = 0.5
        const val LEAST_SPREAD = 8.0
        const val SMALL_SEGMENT_FRACTION = 1.0 / 64
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
    val count: Int get() = high.size
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
