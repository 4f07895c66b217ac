package org.cooperllm.runtime.session

import org.cooperllm.protos.Report
import org.cooperllm.protos.Span
import org.cooperllm.protos.Timing
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.zo.toHex

/** Bytes that crossed the wire in this process, and how fast the larger answers came. */
internal class Traffic {
    @Volatile
    var downlinkBytes: Long = 0
        private set

    @Volatile
    var uplinkBytes: Long = 0
        private set

    @Volatile
    var downloadBytesPerS: Double = 0.0

    /** Called when much arrived since the last time. */
    @Volatile
    var onArrival: () -> Unit = {}
    private var toldBytes = 0L

    fun received(sizeBytes: Long) {
        val isMuch =
            synchronized(this) {
                downlinkBytes += sizeBytes
                (downlinkBytes - toldBytes >= MUCH_BYTES).also { if (it) toldBytes = downlinkBytes }
            }
        if (isMuch) onArrival()
    }

    @Synchronized
    fun sent(sizeBytes: Long) {
        uplinkBytes += sizeBytes
    }

    private companion object {
        const val MUCH_BYTES = 256L * 1024
    }
}

/**
 * Something that happened in a session. Never anything about an example.
 *
 * @property name phase, task, version, computed, report, lost, wait, paused, resumed, finished, or progress: [live] has changed
 * @property timeMs the device's clock, milliseconds since 1970
 * @property fields what belongs to it, with the names that the Python device uses
 * @property live where the device stands
 */
public class Event(
    public val name: String,
    public val timeMs: Double,
    public val fields: Map<String, Any>,
    public val live: Live = Live(),
) {
    override fun toString(): String = "$name $fields"
}

/**
 * Spans since the last report that was acknowledged, and what to tell about them. [clockMs] is since 1970; [engineBytes]
 * is what the loaded bundle takes.
 */
internal class Journal(
    private val traffic: Traffic,
    private val onEvent: (Event) -> Unit,
    private val clockMs: () -> Double,
    private val engineBytes: () -> Long = { 0 },
) {
    private var spans = mutableListOf<Span>()
    private var toldSpans = 0 // of these, already part of an event
    private var countedDown = 0L
    private var countedUp = 0L

    @Volatile
    private var live = Live()

    init {
        traffic.onArrival = { tell("progress") }
    }

    /** The device's clock. */
    fun nowMs(): Double = clockMs()

    /** Tells an event, one at a time; answers its time in milliseconds. */
    @Synchronized
    fun tell(
        name: String,
        vararg fields: Pair<String, Any>,
    ): Double {
        val timeMs = clockMs()
        val now =
            live.copy(
                uplinkBytes = traffic.uplinkBytes,
                downlinkBytes = traffic.downlinkBytes,
                engineBytes = engineBytes(),
                residentBytes = Memory.residentBytes(),
            )
        onEvent(Event(name, timeMs, mapOf(*fields), now))
        return timeMs
    }

    /** Tells that a phase begins; answers when, in milliseconds. */
    fun phase(name: String): Double {
        live = live.copy(phase = name)
        return tell("phase", "phase" to name)
    }

    /** Tells how many directions of the task under way are done. */
    fun measured(
        done: Int,
        all: Int,
    ) {
        live = live.copy(directionsDone = done, directionsAll = all)
        tell("progress", "directions_done" to done, "directions" to all)
    }

    /** Tells of a task: none of its directions is done. */
    fun task(
        taskId: String,
        round: Long,
        kind: String,
    ) {
        live = live.copy(directionsDone = 0, directionsAll = 0)
        tell("task", "task_id" to taskId, "round" to round, "kind" to kind)
    }

    /** Tells of an adapter version that was reached. */
    fun version(update: VersionUpdate) {
        val sha256 = update.adapterSha256.toByteArray().toHex()
        val form = update.formCase.name.lowercase()
        tell("version", "version" to update.version, "adapter_sha256" to sha256, "form" to form)
    }

    /** Notes that something that began at [startMs] has just ended. */
    fun span(
        name: String,
        startMs: Double,
    ) {
        add(Span.newBuilder().setName(name), startMs, clockMs())
    }

    /** Notes what was done about one segment, and when. */
    fun segmentSpan(
        name: String,
        segment: Int,
        startMs: Double,
        endMs: Double,
    ) = add(Span.newBuilder().setName(name).setSegment(segment), startMs, endMs)

    private fun add(
        span: Span.Builder,
        startMs: Double,
        endMs: Double,
    ) {
        spans += span.setStartMs(startMs).setEndMs(maxOf(startMs, endMs)).build()
        if (spans.size > MOST_SPANS) {
            spans.removeAt(0)
            toldSpans = maxOf(0, toldSpans - 1)
        }
    }

    /** The timing of a report: bytes are counted from the timing before this one. */
    fun timing(work: SegmentWork): Timing {
        val down = traffic.downlinkBytes
        val up = traffic.uplinkBytes
        val timing =
            Timing
                .newBuilder()
                .addAllSpans(spans)
                .setDownlinkBytes(down - countedDown)
                .setUplinkBytes(up - countedUp)
                .setSegmentRuns(work.runs.sum())
                .addAllSegmentMs(work.runMs.map { it.toFloat() })
                .setDownloadBytesPerS(traffic.downloadBytesPerS)
                .build()
        countedDown = down
        countedUp = up
        return timing
    }

    /** Tells of a report that the cloud has. Its own span goes out with the next one. */
    fun acknowledged(
        report: Report,
        round: Long,
        duplicate: Boolean,
        startMs: Double,
    ) {
        span("report", startMs)
        val fresh = spans.drop(toldSpans)
        spans = mutableListOf(spans.last())
        toldSpans = 1
        tell(
            "report",
            "task_id" to report.taskId,
            "round" to round,
            "status" to report.status.name.removePrefix("REPORT_STATUS_"),
            "detail" to report.detail,
            "scalars" to report.scalarsCount,
            "skipped_examples" to report.skippedExamples,
            "truncated_examples" to report.truncatedExamples,
            "downlink_bytes" to report.timing.downlinkBytes,
            "uplink_bytes" to report.timing.uplinkBytes,
            "duplicate" to duplicate,
            "spans" to fresh.map(::told),
        )
    }

    private fun told(span: Span): Map<String, Any> {
        val told = mapOf("name" to span.name, "start_ms" to span.startMs, "end_ms" to span.endMs)
        return if (span.hasSegment()) told + ("segment" to span.segment) else told
    }

    private companion object {
        /** A device that waits for long checks in often; the newest spans are what matters. */
        const val MOST_SPANS = 256
    }
}
