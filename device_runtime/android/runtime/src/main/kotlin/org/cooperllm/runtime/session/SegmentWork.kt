package org.cooperllm.runtime.session

/** Runs of each segment and the nanoseconds that they took, the head's last. The cloud learns from it what segments cost. */
internal data class SegmentWork(
    val runs: List<Long> = emptyList(),
    val ns: List<Long> = emptyList(),
) {
    /** Mean milliseconds of a run of each segment; 0 where none ran. */
    val runMs: List<Double> get() = runs.zip(ns) { count, spent -> if (count > 0) spent / 1e6 / count else 0.0 }

    /** What was done after [before], of the same chain. */
    operator fun minus(before: SegmentWork): SegmentWork =
        SegmentWork(runs.zip(before.runs, Long::minus), ns.zip(before.ns, Long::minus))
}
