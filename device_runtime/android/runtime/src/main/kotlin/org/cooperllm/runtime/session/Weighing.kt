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
 * By its segments a direction may cover the whole adapter and yet measure the head alone, or count a label. So before any
 * scalar of a task is kept or leaves, the device looks at every form of direction that the task names.
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
 *
 * Facts are gathered segment by segment, so that guides may come and go one segment at a time: call [addSegment] once for
 * each of [segments], in any order, then [verdict]. So that no power overflows, a segment's sums are in units of its own
 * largest entry u_k, and count (u_k / max_k u_k)^2 times when they are combined. Where even the fourth power of that ratio
 * is zero, a segment counts as empty: the grid rounds what is there to nothing.
 *
 * [guides] are the names of those that the task may speak of. Raises BudgetExceeded where directions repeat noise: report
 * it, nothing was disclosed.
 */
internal class Weighing(
    private val task: DirectionsTask,
    private val guides: Set<ByteString>,
    private val head: Int,
) {
    private val forms = forms()
    private val facts = forms.map { it.second }.distinct().associateWith { mutableMapOf<Int, Facts>() }

    /** All segments in which a direction is active, ascending. */
    val segments: List<Int> =
        facts.keys
            .flatMap { it.activeSegments }
            .distinct()
            .sorted()

    init {
        checkNoise()
    }

    /**
     * One pass over a segment for every form. [scale] (null for 1) and [slices], zero where there is none, are the
     * segment's own values, [parameters] of each; none is kept.
     */
    fun addSegment(
        segment: Int,
        parameters: Int,
        scale: FloatArray?,
        slices: Map<ByteString, FloatArray>,
    ) {
        for ((form, of) in facts) {
            if (segment !in form.activeSegments) continue
            val (least, most) = magnitudes(form, parameters, scale, slices)
            of[segment] = Facts.of(least, most)
        }
    }

    /**
     * What the task discloses, once every segment was added.
     *
     * Raises BudgetExceeded where a direction is concentrated on too few parameters, UnsupportedTask where one is not
     * finite, names an unknown guide or was not seen whole: report it, nothing was disclosed.
     */
    fun verdict(): Cost {
        var guided = emptyList<Pair<ByteString, Double>>() // the first combination of guides
        val ofHead =
            facts.mapValues { (form, of) ->
                guided = guided.ifEmpty { form.guides }
                isOfHead(form, of) || (form.guides.isNotEmpty() && form.guides != guided)
            }
        val scalars = forms.sumOf { countOf(it.first) }
        return Cost(scalars, forms.sumOf { (direction, form) -> if (ofHead.getValue(form)) countOf(direction) else 0L })
    }

    private fun forms(): List<Pair<Direction, Form>> =
        task.stepsList.flatMap { it.directionsList }.map { direction ->
            val terms = direction.guidesList.map { it.guideSha256 to it.coefficient }
            val active = segmentsOf(direction, task)
            direction to Form(direction.isotropicScale, terms, active, direction.boundary, direction.exact)
        }

    /** Whether scalars of this form count as the head's alone. */
    private fun isOfHead(
        form: Form,
        of: Map<Int, Facts>,
    ): Boolean {
        if (form.activeSegments.isNotEmpty() && form.guides.any { it.first !in guides }) {
            throw UnsupportedTask("a direction names a guide that was not sent: correct the task")
        }
        if (of.size < form.activeSegments.distinct().size) {
            throw UnsupportedTask("a direction was not seen in all of its segments: stream the guides again")
        }
        if (!of.values.all { it.unit.isFinite() }) {
            throw UnsupportedTask("a direction is not finite: correct the task's scale, guides or coefficients")
        }
        val largest = of.values.maxOfOrNull { it.unit }.takeUnless { it == 0.0 } ?: 1.0
        var ofHead = 0.0
        var rest = 0.0
        for (segment in form.activeSegments.distinct()) {
            val each = of.getValue(segment)
            val share = (each.unit / largest) * (each.unit / largest)
            if (share * share > 0) checkSpread(segment, each)
            if (segment == head) {
                ofHead = share * each.most
            } else if (segment >= form.boundary) {
                rest += share * each.least
            }
        }
        return form.isotropicScale == 0.0 || ofHead > LARGEST_SHARE * (ofHead + rest)
    }

    private fun checkSpread(
        segment: Int,
        facts: Facts,
    ) {
        val wanted = minOf(LEAST_SPREAD, SMALL_SEGMENT_FRACTION * facts.parameters)
        if (!(facts.spread < wanted)) return
        throw BudgetExceeded(
            "a direction lies on ${Math.round(facts.spread * 10) / 10.0} parameters of segment $segment in effect, " +
                "at least $wanted disclosed about: spread its scale or guide",
        )
    }

    /** The least and the largest magnitude of each entry of z in a segment, whatever the noise's signs. */
    private fun magnitudes(
        form: Form,
        parameters: Int,
        scale: FloatArray?,
        slices: Map<ByteString, FloatArray>,
    ): Pair<DoubleArray, DoubleArray> {
        val noise = DoubleArray(parameters) { abs(form.isotropicScale) }
        if (scale != null) for (i in 0 until parameters) noise[i] *= scale[i].toDouble()
        if (form.guides.isEmpty()) return noise to noise
        val guided = DoubleArray(parameters)
        for ((name, coefficient) in form.guides) {
            val slice = slices[name] ?: continue
            for (i in 0 until parameters) guided[i] += coefficient * slice[i]
        }
        val least = DoubleArray(parameters) { abs(noise[it] - abs(guided[it])) }
        return least to DoubleArray(parameters) { noise[it] + abs(guided[it]) }
    }

    /** Raises BudgetExceeded when directions of different forms have the same noise, or none. */
    private fun checkNoise() {
        // Seeds are unsigned; from start to end, both included, so that the last seed of all is one, too.
        val ranges = mutableListOf<Triple<ULong, ULong, Form>>()
        val silent = mutableSetOf<Form>()
        for ((direction, form) in forms) {
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

    companion object {
        private const val LARGEST_SHARE = 0.5
        private const val LEAST_SPREAD = 8.0
        private const val SMALL_SEGMENT_FRACTION = 1.0 / 64

        /** What a task discloses, where scale and guides are here whole. Raises as [Weighing] does. */
        fun weigh(
            task: DirectionsTask,
            supplies: Supplies,
            layout: Layout,
            head: Int,
        ): Cost {
            val weighing = Weighing(task, supplies.guides.keys, head)
            for (segment in weighing.segments) {
                val count = layout.segmentCount(segment)
                val guides = supplies.guides.mapNotNull { (name, slices) -> slices[segment]?.let { name to it } }
                val values = guides.associate { (name, slice) -> name to valuesOf(slice, 0, count) }
                weighing.addSegment(segment, count, scaleIn(supplies.scale, segment, layout), values)
            }
            return weighing.verdict()
        }

        /** A segment's own values of the scale; null for 1, and where the segment has none. */
        fun scaleIn(
            scale: FloatVector?,
            segment: Int,
            layout: Layout,
        ): FloatArray? {
            val count = layout.segmentCount(segment)
            if (scale == null || count == 0) return null
            return valuesOf(scale, layout.segmentOffset(segment), count)
        }

        /** [count] values of a vector from index [from] on. */
        fun valuesOf(
            vector: FloatVector,
            from: Int,
            count: Int,
        ): FloatArray = FloatArray(count).also { vector.read(from, it, count) }
    }
}
