package org.cooperllm.runtime.update

import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.Direction

/** What a device is asked to measure; the fields are those of the message of this name in federation.proto. */
internal class DirectionsTask(
    val epsilon: Double,
    val activeSegments: IntArray,
    val steps: List<Step>,
    val scalarForm: ScalarForm = ScalarForm(),
    val exitSegment: Int = 0,
    val globalWeight: Double = 0.0,
)

/**
 * One batch, all its directions, and with a [localLearningRate] above 0 a local step. Directions stand one by one, as
 * they are expanded from the message; each says its active segments.
 */
internal class Step(
    val batchSeed: Long,
    val batchExamples: Int,
    val directions: List<TaskDirection>,
    val localLearningRate: Double = 0.0,
    val updateSeed: Long = 0,
)

/** A direction; an [exact] one, in the head alone, is measured without differences. */
internal class TaskDirection(
    val direction: Direction,
    val exact: Boolean = false,
)

/** What happens to a scalar before it leaves: |rho| <= [clip] (0: none), noise of [noiseStd] (0: none), float32. */
internal class ScalarForm(
    val clip: Double = 0.0,
    val noiseStd: Double = 0.0,
)

/** Refuses what could not be carried out, before anything is measured. Raises UnsupportedTask. */
internal fun checkTask(task: DirectionsTask) {
    val numbers = doubleArrayOf(task.epsilon, task.scalarForm.clip, task.scalarForm.noiseStd, task.globalWeight)
    val rates = task.steps.map { it.localLearningRate }
    if (task.epsilon == 0.0 || !(numbers.toList() + rates).all { it.isFinite() && it >= 0.0 }) {
        throw UnsupportedTask(
            "epsilon, rates, clip, noise and global_weight must be finite and not negative, and epsilon above 0: " +
                "correct the task",
        )
    }
    val segments = task.activeSegments
    if (segments.isEmpty() || (1 until segments.size).any { segments[it] <= segments[it - 1] }) {
        throw UnsupportedTask("active_segments must be ascending and not empty: correct the task")
    }
}
