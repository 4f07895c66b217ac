package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.update.ScalarForm
import org.cooperllm.runtime.update.Step
import org.cooperllm.runtime.update.TaskDirection
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Guide
import org.cooperllm.runtime.zo.GuideTerm
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.protos.Direction as DirectionMessage
import org.cooperllm.protos.DirectionsTask as DirectionsMessage
import org.cooperllm.runtime.update.DirectionsTask as LocalTask

/** Messages as the core takes them: directions one by one, made of a scale (null: 1) and of guides by their names. */
internal class Expansion(
    private val scale: FloatVector?,
    private val guides: Map<ByteString, Guide>,
) {
    constructor(scale: FloatVector?, guides: Map<ByteString, Slices>, layout: Layout) :
        this(scale, guides.mapValues { Guide.of(layout, it.value) })

    /** The whole task. Raises UnsupportedTask when a direction names a guide that the task did not announce. */
    fun task(message: DirectionsMessage): LocalTask {
        val active = message.activeSegmentsList
        val steps =
            message.stepsList.map { step ->
                Step(
                    batchSeed = step.batchSeed,
                    // uint32: a batch beyond 2^31 examples is all examples.
                    batchExamples = if (step.batchExamples < 0) Int.MAX_VALUE else step.batchExamples,
                    directions = directions(step.directionsList, active),
                    localLearningRate = step.localLearningRate,
                    updateSeed = step.updateSeed,
                )
            }
        val form = ScalarForm(message.scalarForm.clip, message.scalarForm.noiseStd)
        val segments = active.toIntArray()
        return LocalTask(message.epsilon, segments, steps, form, message.exitSegment, message.globalWeight)
    }

    /** Every direction by itself: `count` consecutive seeds each, wrapping at 2^64. */
    fun directions(
        messages: List<DirectionMessage>,
        activeSegments: List<Int>,
    ): List<TaskDirection> =
        messages.flatMap { message ->
            val terms = message.guidesList.map { term(it.guideSha256, it.coefficient) }
            val segments = message.activeSegmentsList.ifEmpty { activeSegments }.toIntArray()
            val group = maxOf(1, message.perPrefix)
            List(message.count) { number ->
                val prefix = if (message.boundary == 0) 0 else message.prefixSeed + (number - number % group)
                val seed = message.seed + number
                val isotropic = message.isotropicScale
                val direction = Direction(seed, isotropic, scale, terms, segments, message.boundary, prefix)
                TaskDirection(direction, message.exact)
            }
        }

    /** c * u of a guide. */
    fun term(
        sha256: ByteString,
        coefficient: Double,
    ): GuideTerm {
        val guide = guides[sha256]
        if (guide == null) throw UnsupportedTask("a direction names a guide that was not sent: correct the task")
        return GuideTerm(guide, coefficient)
    }
}
