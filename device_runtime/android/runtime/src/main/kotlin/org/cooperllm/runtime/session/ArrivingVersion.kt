package org.cooperllm.runtime.session

import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideEncoding
import org.cooperllm.protos.Task
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.BadVersion
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.zo.AdapterVersion
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout

/**
 * An adapter version that arrives with the guides of its task, a segment at a time.
 *
 * A segment is measured on as soon as its piece is in the adapter; whether all pieces together are the version that was
 * promised is known with the last one. Until then nothing is kept of what was measured, and the adapter becomes again
 * what it was wherever anybody else may look at it. Hold the engine's lock over every call.
 *
 * [heldVersion] is the version in [adapter], null where that is of no use as a start. When the new one is whole, [keep]
 * writes it down, and [tell] is called.
 *
 * Raises UnsupportedTask for a task that would run on segments before they are of this version.
 */
internal class ArrivingVersion(
    task: Task,
    private val heldVersion: Long?,
    private val adapter: FloatVector,
    private val layout: Layout,
    private val pieces: KeptGuides,
    private val keep: () -> Unit,
    private val tell: () -> Unit,
) {
    /** Its name, and the segments that it has a piece for. */
    val announced: Guide = task.update.streamed
    private val update = task.update
    private val missing = announced.segmentsList.toMutableSet()

    /** What the adapter was, while the version is in part in it. */
    private var before: FloatVector? = null

    init {
        val frozen = missing - task.directions.activeSegmentsList.toSet()
        if (frozen.isNotEmpty() || task.directions.exitSegment != 0) {
            throw UnsupportedTask("a version streams only to tasks of all segments that moved: correct the task")
        }
    }

    /** Whether it is in the adapter and on disk. */
    val isKept: Boolean get() = missing.isEmpty() && before == null

    /** Puts a segment into the adapter that has arrived. Raises BadVersion when it is damaged. */
    fun enter(segment: Int) {
        if (segment !in missing) return
        val held = before ?: adapter.copy().also { before = it }
        val piece =
            pieces.piece(announced.sha256, segment)
                ?: throw BadVersion("a version was damaged on this device's disk: stream it again")
        val values = decoded(piece, held)
        FloatVector(adapter.view(layout.segmentOffset(segment), values.count)).copyFrom(values)
        missing -= segment
    }

    /**
     * Makes it the version that this device holds, once every segment has entered.
     *
     * Raises BadVersion when the whole is not what was promised: check in again, claiming none.
     */
    fun complete() {
        if (isKept) return
        if (missing.isNotEmpty() || !AdapterVersion.sha256(adapter).contentEquals(update.adapterSha256.toByteArray())) {
            throw BadVersion("the update does not lead to the adapter it names: ask for a snapshot")
        }
        keep()
        before = null // what hears of it can undo it no more
        tell()
    }

    /** Takes an unfinished version out of the adapter again; what has arrived of it stays on disk. */
    fun undo() {
        adapter.copyFrom(before ?: return)
        before = null
        missing += announced.segmentsList
    }

    /** Shows others the adapter as it was during [action], while this task only waits. */
    fun aside(action: () -> Unit) {
        val shown = before ?: return action()
        adapter.swapWith(shown)
        try {
            action()
        } finally {
            adapter.swapWith(shown)
        }
    }

    private fun decoded(
        piece: Piece,
        held: FloatVector,
    ): FloatVector {
        val addsSteps = piece.encoding == GuideEncoding.GUIDE_ENCODING_STEPS_VALUE
        if (addsSteps && heldVersion != update.fromVersion) {
            throw BadVersion("the update starts from version ${update.fromVersion}, which this device does not hold")
        }
        try {
            return AdapterVersion.decodePiece(piece.data, if (addsSteps) held else null, layout, piece.segment)
        } catch (damaged: BadArtifact) {
            throw BadVersion(damaged.message.orEmpty(), damaged)
        }
    }
}
