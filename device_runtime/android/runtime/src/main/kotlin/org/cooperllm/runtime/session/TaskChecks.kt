package org.cooperllm.runtime.session

import org.cooperllm.protos.DirectionsTask
import org.cooperllm.runtime.UnsupportedTask

/** What a directions task must look like to make sense, before anything is fetched or measured for it. */
internal object TaskChecks {
    /** Directions of one task; a larger count is a mistake, and would only fill the memory. */
    private const val MOST_DIRECTIONS = 1L shl 20

    /** Refuses what could not be carried out on a chain of [segments] segments. Raises UnsupportedTask. */
    fun check(
        task: DirectionsTask,
        segments: Int,
        hasBranches: Boolean,
        hasHeadGradient: Boolean,
    ) {
        checkNumbers(task)
        checkSegments(task)
        checkWindow(task, segments, hasBranches)
        checkExact(task, segments, hasHeadGradient)
    }

    /** Refuses an exit behind the last segment. Raises UnsupportedTask. */
    fun checkExit(
        exitSegment: Int,
        segments: Int,
    ) {
        if (exitSegment !in 0..segments) {
            throw UnsupportedTask("exit_segment is $exitSegment: use 1 to $segments, or 0 for the whole chain")
        }
    }

    private fun checkNumbers(task: DirectionsTask) {
        val directions = task.stepsList.flatMap { it.directionsList }
        if (directions.any { it.count == 0 }) {
            throw UnsupportedTask("a direction needs a count of at least 1: correct the task")
        }
        if (directions.sumOf { countOf(it) } > MOST_DIRECTIONS) {
            throw UnsupportedTask("over $MOST_DIRECTIONS directions in one task: send fewer")
        }
        val form = task.scalarForm
        val numbers = listOf(task.epsilon, form.clip, form.noiseStd, task.globalWeight)
        val all = numbers + task.stepsList.map { it.localLearningRate }
        if (task.epsilon == 0.0 || !all.all { it.isFinite() && it >= 0 }) {
            throw UnsupportedTask(
                "epsilon, rates, clip, noise and global_weight must be finite and not negative, and epsilon above 0: " +
                    "correct the task",
            )
        }
    }

    private fun checkSegments(task: DirectionsTask) {
        val segments = task.activeSegmentsList
        if (segments.isEmpty() || segments.zipWithNext().any { (first, second) -> first >= second }) {
            throw UnsupportedTask("active_segments must be ascending and not empty: correct the task")
        }
        val directions = task.stepsList.flatMap { it.directionsList }
        if (directions.any { !segments.containsAll(it.activeSegmentsList) }) {
            throw UnsupportedTask("a direction is active outside the task's segments: correct the task")
        }
    }

    private fun checkWindow(
        task: DirectionsTask,
        segments: Int,
        hasBranches: Boolean,
    ) {
        checkExit(task.exitSegment, segments)
        val exit = if (task.exitSegment == 0) segments else task.exitSegment
        for (segment in task.activeSegmentsList) {
            if (segment !in 0..segments) {
                throw UnsupportedTask("segment $segment is active, the head is number $segments: correct the task")
            }
            if (segment in exit until segments) {
                throw UnsupportedTask(
                    "segment $segment is active and does not run: with exit_segment $exit use segments below it and " +
                        "the head, $segments",
                )
            }
        }
        if (task.globalWeight > 0 && !hasBranches) {
            throw UnsupportedTask(
                "this bundle has no auxiliary branches: use global_weight 0, or a bundle exported with bottlenecks",
            )
        }
    }

    /** The exact slope along a guide could be that along one bias, which counts a label. */
    private fun checkExact(
        task: DirectionsTask,
        head: Int,
        hasHeadGradient: Boolean,
    ) {
        val exact = task.stepsList.flatMap { it.directionsList }.filter { it.exact }
        if (exact.isEmpty()) return
        if (!hasHeadGradient) {
            throw UnsupportedTask("this bundle has no method head_gradient: ask for differences, or export again")
        }
        if (task.globalWeight > 0) {
            throw UnsupportedTask("exact directions measure one loss: use global_weight 0, or differences")
        }
        if (exact.any { segmentsOf(it, task) != listOf(head) }) {
            throw UnsupportedTask(
                "an exact direction is active outside the head, segment $head: ask for differences",
            )
        }
        if (exact.any { it.guidesCount > 0 }) {
            throw UnsupportedTask("an exact direction names a guide: exact ones take noise alone")
        }
    }
}
