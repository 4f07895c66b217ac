package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.plan.StreamingOrder
import org.cooperllm.runtime.plan.StreamingSizes
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Between
import org.cooperllm.runtime.update.Groups
import org.cooperllm.runtime.update.GuideFeed
import org.cooperllm.runtime.update.Objective
import org.cooperllm.runtime.update.TaskDirection
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Guide

/** What a [Feed] is told by, and tells. */
internal class FeedCalls(
    /** Says what a task discloses, or refuses it, once all guides have been weighed. */
    val permit: (Cost) -> Cost,
    /** Asked while a segment is waited for. */
    val goesOn: () -> Boolean,
    /** Hears of a span: its name, the segment, when it began and when it ended. */
    val note: (String, Int, Double, Double) -> Unit,
    /** Milliseconds since 1970. */
    val clockMs: () -> Double,
)

/**
 * A task's guides, one segment at a time: a segment is perturbed and run while the next is on the wire.
 *
 * A group of directions runs in streaming order (see [StreamingOrder]): all of it in one segment before any of it in the
 * next, so of the guides one segment's values are held at a time, in memory that every segment uses again. The first
 * group goes with the stream; every later one decodes the pieces again, which are on disk by then. The scalars are those
 * of whole guides, bit for bit. What the guides make of the directions (see [Weighing]) is known when all has passed
 * once, and so is whether the [version] that may come along is the promised one; until then no scalar is kept or leaves.
 */
internal class Feed(
    private val task: DirectionsTask,
    private val engine: Engine,
    private val arrivals: Arrivals,
    private val pieces: KeptGuides,
    private val scale: FloatVector?,
    private val calls: FeedCalls,
    private val version: ArrivingVersion? = null,
) : GuideFeed {
    private val layout = engine.bundle.layout
    private val segments: Map<ByteString, List<Int>> = task.guidesList.associate { it.sha256 to it.segmentsList }
    private val memory = mutableMapOf<ByteString, FloatVector>()
    private val weighing = Weighing(task, segments.keys, engine.head)
    private val unweighed = weighing.segments.toMutableSet()
    private var permitted: Cost? = null

    /** The guides that directions are made of. */
    val guides: Map<ByteString, Guide> = segments.mapValues { Guide() }

    /** What the task discloses. Only after a measurement. */
    val cost: Cost get() = checkNotNull(permitted) { "a measurement before" }

    /** Raises BadVersion where the version that came along is not what was promised. */
    override fun measure(
        batches: List<Batch>,
        directions: List<TaskDirection>,
        between: Between,
        whole: () -> Unit,
        take: (DoubleArray) -> Unit,
    ) = try {
        measureAll(batches, directions, between, whole, take)
    } finally {
        version?.undo() // unless it was whole
    }

    private fun measureAll(
        batches: List<Batch>,
        directions: List<TaskDirection>,
        between: Between,
        whole: () -> Unit,
        take: (DoubleArray) -> Unit,
    ) {
        val waiting = ArrayDeque(Groups(engine.core, task.exitSegment, between).units(directions))
        val size = StreamingOrder.choose(sizes(batches, waiting), engine.streamingBytes).group
        if (size == 0) { // guides that are small beside hidden states: all of them, as ever
            memory.clear()
            for (segment in engine.segmentCounts.indices) enter(segment, isAlone = false)
            decide()
            whole()
            return
        }
        try {
            measureGroups(batches, waiting, size, between, take)
        } finally {
            engine.core.releaseStates()
        }
    }

    private fun measureGroups(
        batches: List<Batch>,
        waiting: ArrayDeque<List<TaskDirection>>,
        size: Int,
        between: Between,
        take: (DoubleArray) -> Unit,
    ) {
        while (waiting.isNotEmpty()) {
            val most = if (permitted == null) size else minOf(size, between.directions)
            val group = waiting.removeFirst().toMutableList()
            while (waiting.isNotEmpty() && group.size + waiting.first().size <= most) group += waiting.removeFirst()
            val startNs = between.clockNs()
            val rho = stream(batches, group)
            between.learn(group.size, between.clockNs() - startNs)
            decide()
            take(rho)
        }
    }

    private fun sizes(
        batches: List<Batch>,
        units: List<List<TaskDirection>>,
    ): StreamingSizes {
        val counts = engine.segmentCounts
        val guideBytes = counts.indices.map { k -> FLOAT_BYTES * counts[k] * segments.values.count { k in it } }
        val stateBytes = batches.sumOf { FLOAT_BYTES * engine.core.chain.shape.hiddenSize * it.inputIds.size }
        return StreamingSizes(
            guideBytes,
            stateBytes,
            units.sumOf { it.size },
            unit = units.maxOfOrNull { it.size } ?: 1,
        )
    }

    private fun stream(
        batches: List<Batch>,
        group: List<TaskDirection>,
    ): DoubleArray {
        val objective = Objective(task.exitSegment, task.globalWeight)
        val measurement = engine.core.begin(batches, group.map { it.direction }, task.epsilon, objective)
        try {
            for (segment in measurement.segments) {
                enter(segment, isAlone = true)
                val startMs = calls.clockMs()
                measurement.advance()
                if (permitted == null) noteRun(segment, startMs, measurement.perturbedNs)
                leave(segment)
            }
            return measurement.finish().rho
        } finally {
            for ((name, of) in segments) of.forEach { guides.getValue(name).drop(it) }
        }
    }

    /** Holds a segment of every guide, and puts that of the version into the adapter, once they are here. */
    private fun enter(
        segment: Int,
        isAlone: Boolean,
    ) {
        if (!arrivals.isHere(segment)) await(segment)
        version?.enter(segment)
        val held = mutableMapOf<ByteString, FloatVector>()
        for ((name, of) in segments) {
            if (segment !in of) continue
            val values = if (isAlone) memoryOf(name, segment) else FloatVector.allocate(layout.segmentCount(segment))
            if (!pieces.read(name, segment, values)) {
                throw BadArtifact("a guide was damaged on this device's disk: stream it again")
            }
            guides.getValue(name).hold(layout, segment, values)
            held[name] = values
        }
        if (segment in unweighed) weigh(segment, held)
    }

    /** Predictions may run meanwhile, on the adapter as it was. */
    private fun await(segment: Int) {
        val wait = { engine.unlocked { arrivals.awaitSegment(segment, calls.goesOn) } }
        if (version == null) wait() else version.aside(wait)
    }

    /** As much of a guide's own memory as a segment needs. */
    private fun memoryOf(
        name: ByteString,
        segment: Int,
    ): FloatVector {
        val largest = { FloatVector.allocate(segments.getValue(name).maxOf { layout.segmentCount(it) }) }
        return FloatVector(memory.getOrPut(name, largest).view(0, layout.segmentCount(segment)))
    }

    private fun leave(segment: Int) {
        for ((name, of) in segments) if (segment in of) guides.getValue(name).drop(segment)
    }

    private fun weigh(
        segment: Int,
        held: Map<ByteString, FloatVector>,
    ) {
        val count = layout.segmentCount(segment)
        val values = held.mapValues { Weighing.valuesOf(it.value, 0, count) }
        weighing.addSegment(segment, count, Weighing.scaleIn(scale, segment, layout), values)
        unweighed -= segment
    }

    /** Permits or refuses the task, once; on no other version than the one that was promised. */
    private fun decide() {
        version?.complete()
        if (permitted != null) return
        for (segment in unweighed.sorted()) weigh(segment, emptyMap()) // active, but nothing of it could run
        permitted = calls.permit(weighing.verdict())
    }

    /** Spans of the first group: later ones wait for nothing. Perturbing and running alternate; each is as long as its sum. */
    private fun noteRun(
        segment: Int,
        startMs: Double,
        perturbedNs: Long,
    ) {
        for (one in arrivals.takeArrived()) calls.note(one.name, one.segment, one.startMs, one.endMs)
        val endMs = calls.clockMs()
        val perturbedMs = minOf(endMs, startMs + perturbedNs / NS_PER_MS)
        calls.note("perturb", segment, startMs, perturbedMs)
        calls.note("run", segment, perturbedMs, endMs)
    }

    companion object {
        private const val FLOAT_BYTES = 4L
        private const val NS_PER_MS = 1e6

        /** Whether a task's guides need not be whole at any time: nothing moves, and nothing asks for turns. */
        fun canStream(task: DirectionsTask): Boolean {
            val moves = task.stepsList.dropLast(1).any { it.localLearningRate > 0 }
            val exact = task.stepsList.any { step -> step.directionsList.any { it.exact } }
            return task.guidesCount > 0 && !task.inTurn && !moves && !exact
        }
    }
}
