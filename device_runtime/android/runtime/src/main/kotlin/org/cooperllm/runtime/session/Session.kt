package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.CheckInRequest
import org.cooperllm.protos.Finished
import org.cooperllm.protos.RetryWindow
import org.cooperllm.protos.Task
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.BadVersion
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.TaskLost
import org.cooperllm.runtime.TaskRefused
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.zo.toHex

/**
 * How one turn ended.
 *
 * @property isFinished whether the job is over
 * @property waitMs if not, after how many milliseconds the next turn should start
 */
public data class Outcome(
    public val isFinished: Boolean = false,
    public val waitMs: Double = 0.0,
)

/**
 * One device's conversation with one cloud, turn by turn: the protocol's phases, one after the other.
 *
 *     enroll -> [report, if one is pending] -> check in -+-> task -> fetch -> version -> guides -> compute -> report
 *                                                        +-> retry window: one instant in it
 *                                                        +-> finished: the last version
 *
 * Whatever goes wrong with a task is reported with a status, and the session goes on. Whatever the process had not
 * written down when it ended is done again: before a report leaves, it lies on disk, together with what it discloses.
 *
 * [onEvent] gets every event in order: phase (enroll, check_in, fetch, version, guides, compute, report), task, version,
 * computed, report, lost, wait, paused and resumed (by the
 * conditions that the device requires), progress, finished.
 */
internal class Session(
    private val cloud: Cloud,
    private val store: Store,
    val holdings: Holdings,
    source: ExampleSource,
    private val surroundings: Surroundings,
    private val budget: Budget = Budget(),
    onEvent: (Event) -> Unit = {},
) {
    private val journal =
        Journal(cloud.traffic, onEvent, surroundings.clockMs) { holdings.engine?.memory?.neededBytes ?: 0 }
    private val outbox = Outbox(cloud, store, holdings, journal, surroundings.uniform, surroundings.newId)
    private val tasks = Tasks(store, budget, surroundings.gauss, journal::measured, surroundings.watch.elapsedMs)
    private val stretches = Stretches(surroundings.watch, journal, tasks, surroundings.pause)
    private val directions = Directions(holdings, journal, tasks, stretches)

    /** This device's own. */
    val examples = OwnExamples(source)

    /** The adapters in use. */
    val learned = Learned(store, holdings, source)
    private var isEnrolled = false

    /**
     * Hands in what is pending, or checks in and does the task it is given, if any.
     *
     * Raises ServerUnreachable (try again later), ServerRefused, StoreError, BundleError, ExamplesError, ProgramError or
     * Stopped: see each. Another turn goes on where this one ended.
     */
    suspend fun turn(): Outcome {
        if (!stretches.conditionsHold()) return Outcome(waitMs = CONDITIONS_PAUSE_MS)
        return try {
            oneTurn()
        } catch (_: NotEnrolled) {
            // The cloud may have lost its memory since; a second refusal is a matter of keys or clocks.
            isEnrolled = false
            oneTurn()
        }
    }

    /** Learns for this device alone: see FederatedDevice.personalise. */
    suspend fun personalise(practice: Practice): Personalised {
        journal.phase("personalise")
        return learned.personalise(practice, surroundings.watch) { steps, loss ->
            journal.tell("progress", "steps_done" to steps, "steps" to practice.steps, "loss" to loss)
        }
    }

    /** Lets go of the program, the connection and all that was kept of the examples. */
    suspend fun close() {
        forgetExamples()
        cloud.close()
        holdings.closeEngine()
    }

    /** Asks the source anew at the next check-in, and lets go of all that was kept of the examples. */
    fun forgetExamples() = examples.forget()

    private suspend fun oneTurn(): Outcome {
        if (!isEnrolled) {
            journal.phase("enroll")
            cloud.enroll()
            isEnrolled = true
        }
        if (outbox.isPending) return Outcome(waitMs = outbox.send())
        val reply = checkIn()
        return when (reply.answerCase) {
            CheckInReply.AnswerCase.TASK -> work(reply.task)
            CheckInReply.AnswerCase.FINISHED -> finish(reply.finished)
            CheckInReply.AnswerCase.RETRY -> wait(reply.retry)
            else -> throw ServerRefused("the service's answer to a check-in is not known here: update the app")
        }
    }

    private suspend fun checkIn(): CheckInReply {
        val startMs = journal.phase("check_in")
        val bundleSha256 = holdings.bundleSha256()
        val parameters =
            holdings.engine
                ?.bundle
                ?.layout
                ?.parameters
        val request =
            CheckInRequest
                .newBuilder()
                .setProtocolVersion(Transport.PROTOCOL_VERSION)
                .setBundleSha256(ByteString.copyFrom(hexBytes(bundleSha256)))
                .setBudget(budget.message(parameters))
                .setTrainExamples(examples.trainCount() / ROUNDED_TO * ROUNDED_TO)
                .setDownloadBytesPerS(cloud.traffic.downloadBytesPerS)
                .setStreamsVersions(true)
        // A version is claimed only while its bytes are there and have its hash.
        if (bundleSha256.isNotEmpty() && store.readAdapter() != null) {
            request.setAdapterVersion(store.state.adapterVersion)
            request.setAdapterSha256(ByteString.copyFrom(hexBytes(store.state.adapterSha256)))
        }
        val reply = cloud.checkIn(request.build())
        journal.span("check_in", startMs)
        return reply
    }

    private fun wait(window: RetryWindow): Outcome {
        val longestMs = maxOf(window.minMs, window.maxMs)
        val waitMs = surroundings.uniform(window.minMs.toDouble(), longestMs.toDouble())
        journal.tell("wait", "wait_s" to waitMs / 1000)
        return Outcome(waitMs = waitMs)
    }

    /** Reaches the last version, where this device holds the bundle; where it never had work it needs none. */
    private suspend fun finish(finished: Finished): Outcome {
        val bundleSha256 = holdings.bundleSha256()
        if (bundleSha256.isNotEmpty() && finished.hasUpdate()) {
            holdings.load(bundleSha256)
            try {
                reach(finished.update)
            } catch (error: BadVersion) {
                claimNone(error)
                return Outcome()
            }
        }
        val state = store.state
        journal.tell("finished", "version" to state.adapterVersion, "adapter_sha256" to state.adapterSha256)
        return Outcome(isFinished = true)
    }

    private suspend fun work(task: Task): Outcome {
        stretches.beginLease(task)
        journal.task(task.taskId, task.round, task.kindCase.name.lowercase())
        val finding =
            try {
                find(task) ?: return Outcome()
            } catch (refusal: TaskRefused) {
                Finding.refused(refusal)
            } catch (error: BundleError) {
                // The cloud hears of it, and so does whoever runs this device: no other task can succeed.
                outbox.keep(task, Finding.refused(BadArtifact(error.message.orEmpty(), error)), examples.known)
                outbox.send()
                throw error
            } catch (error: TaskLost) {
                return Outcome(waitMs = outbox.drop(error))
            }
        outbox.keep(task, finding, examples.known)
        return Outcome(waitMs = outbox.send())
    }

    /** The finding of a task, or null when the device has to check in again for a snapshot first. */
    private suspend fun find(task: Task): Finding? =
        try {
            done(task)
        } catch (error: BadVersion) {
            holdings.keptGuides().drop(task.update.streamed.sha256)
            claimNone(error)
            null
        }

    private suspend fun done(task: Task): Finding {
        val startMs = journal.phase("fetch")
        val engine = holdings.load(task.bundleSha256.toByteArray().toHex())
        val private = examples.of(engine)
        journal.span("fetch", startMs)
        if (task.update.formCase != VersionUpdate.FormCase.STREAMED) {
            reach(task.update)
        } else if (!Feed.canStream(task.directions)) {
            throw UnsupportedTask("a version streams only with guides that do: correct the task")
        }
        val permitted = tasks.permit(task, engine, private)
        val finding =
            if (task.kindCase == Task.KindCase.DIRECTIONS) {
                directions.find(task, engine, private)
            } else {
                stretches.compute(task, Ready(), engine, private).copy(cost = permitted)
            }
        journal.tell("computed", "task_id" to task.taskId, "segment_runs" to finding.work.runs.sum())
        return finding
    }

    /** Reaches a version. Raises BadVersion. */
    private suspend fun reach(update: VersionUpdate) {
        val startMs = journal.phase("version")
        holdings.reach(update)
        journal.span("fetch", startMs)
        journal.version(update)
    }

    /** Makes the next check-in ask for a snapshot. Raises the error where the last one did already. */
    private fun claimNone(error: BadVersion) {
        if (store.state.adapterSha256.isEmpty()) throw error
        holdings.forgetAdapter()
    }

    private companion object {
        /** Private examples are told in eights. */
        const val ROUNDED_TO = 8

        /** Between two looks at the conditions while no task is held. */
        const val CONDITIONS_PAUSE_MS = 10_000.0
    }
}
