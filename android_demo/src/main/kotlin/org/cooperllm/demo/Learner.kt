package org.cooperllm.demo

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.cooperllm.android.Condition
import org.cooperllm.android.TrainingWork
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.Outcome
import java.io.IOException

/** The system's job scheduler, as far as the app needs it. */
internal interface Schedule {
    fun begin()

    fun end()
}

/**
 * What the app does with what the user decides: when it learns, when it is silent, when it sorts.
 *
 * Without the user's consent the device is opened without an address: it sorts, and has nowhere to send anything to.
 *
 * @param open a device; with an address only where the argument says so
 * @param missing the conditions that do not hold for practising with the app open
 */
internal class Learner(
    private val file: NotebookFile,
    private val schedule: Schedule,
    private val scope: CoroutineScope,
    private val missing: () -> Set<Condition>,
    private val open: (isOnline: Boolean) -> Participant,
) {
    private val mutableRound = MutableStateFlow(RoundState())
    private val mutableSent = MutableStateFlow<List<Disclosure>>(emptyList())
    private val events = MutableSharedFlow<Event>(extraBufferCapacity = EVENTS_BEHIND)
    private val deciding = Mutex()
    private val opening = Mutex()
    private var participant: Participant? = null
    private var practising: Job? = null

    private var asked: List<Example> = emptyList()

    @Volatile
    private var newVersion: Long? = null

    val notebook: StateFlow<Notebook> = file.notebook
    val round: StateFlow<RoundState> = mutableRound.asStateFlow()

    /** What left this phone, newest first. */
    val sent: StateFlow<List<Disclosure>> = mutableSent.asStateFlow()

    /** The work of a job: as practising, without the app open. */
    val work: TrainingWork =
        object : TrainingWork {
            override val progress: Flow<Event> = events

            override suspend fun runOnce(): Outcome = turn()
        }

    /** After the app's start. */
    suspend fun begin() =
        guarded {
            if (notebook.value.isTakingPart) schedule.begin()
            mutableSent.value = participant().disclosures()
            sort()
        }

    suspend fun write(
        text: String,
        nowMs: Long,
    ) = guarded {
        file.change { it.write(text, nowMs) }
        sort { it.now == null }
    }

    suspend fun check(
        id: Long,
        label: String,
    ) = guarded { file.change { it.check(id, label) } }

    suspend fun delete(id: Long) = guarded { file.change { it.delete(id) } }

    /** The user's consent, given or withdrawn. Withdrawn, it holds before anything else happens. */
    suspend fun takePart(isTakingPart: Boolean) = guarded { deciding.withLock { decide(isTakingPart) } }

    /** Takes turns now, with the app open, until [rest], or something stands against it. */
    fun practise() {
        if (practising?.isActive == true) return
        practising =
            scope.launch {
                mutableRound.update { it.practising() }
                var end: Notice? = null
                try {
                    // A decision under way opens the device anew.
                    deciding.withLock {}
                    end = turns()
                } catch (error: CooperLLMError) {
                    end = noticeOf(error)
                } catch (_: IOException) {
                    end = Notice.NoSpace
                } finally {
                    mutableRound.update { it.ended(end) }
                }
            }
    }

    /** Ends [practise]; no finished direction is lost. */
    fun rest() {
        practising?.cancel()
    }

    /** Deletes everything that the app has on this phone. */
    suspend fun forget() =
        guarded {
            deciding.withLock {
                decide(isTakingPart = false)
                // Offline now: the key goes, and no new one is made.
                participant().forget()
                opening.withLock { close() }
                file.forget()
                mutableRound.value = RoundState(hasModel = false)
                mutableSent.value = emptyList()
            }
        }

    private suspend fun decide(isTakingPart: Boolean) {
        file.change { it.copy(isTakingPart = isTakingPart) }
        if (isTakingPart) {
            schedule.begin()
        } else {
            schedule.end()
            rest()
        }
        opening.withLock { close() }
        mutableRound.update { it.ended(null) }
    }

    private suspend fun turns(): Notice? {
        while (true) {
            val absent = missing()
            if (absent.isNotEmpty()) return Notice.NotNow(absent)
            val outcome = turn()
            if (outcome.isFinished) return Notice.Finished
            delay(outcome.waitMs.toLong())
        }
    }

    private suspend fun turn(): Outcome {
        val device = opening.withLock { if (notebook.value.isTakingPart) opened() else return FINISHED }
        if (asked != notebook.value.examples) {
            asked = notebook.value.examples
            device.refreshExamples()
        }
        val outcome =
            coroutineScope {
                // Unconfined: what the turn told last is seen before it returns.
                val told =
                    launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) { device.progress.collect(::see) }
                try {
                    mutableRound.update { it.turning(true) }
                    device.runOnce()
                } catch (error: Exception) {
                    // A device that is closed under its turn may say anything.
                    if (notebook.value.isTakingPart || error is CancellationException) throw error
                    FINISHED
                } finally {
                    mutableRound.update { it.turning(false) }
                    told.cancel()
                }
            }
        if (!notebook.value.isTakingPart) return FINISHED
        mutableSent.value = device.disclosures()
        newVersion?.let { version ->
            newVersion = null
            sort()
            file.change { it.scored(version) }
        }
        return outcome
    }

    private fun see(event: Event) {
        if (event.name == "version") newVersion = event.fields["version"] as? Long
        mutableRound.update { it.after(event) }
        events.tryEmit(event)
    }

    /** Asks the sorter about notes; without one they stay as they are. */
    private suspend fun sort(which: (Note) -> Boolean = { true }) {
        val notes = notebook.value.notes.filter(which)
        try {
            val labels = participant().predict(notes.map { it.text })
            file.change { it.sorted(notes.map { note -> note.id }.zip(labels).toMap()) }
            mutableRound.update { it.copy(hasModel = true) }
        } catch (_: BundleError) {
            mutableRound.update { it.copy(hasModel = false) }
        }
    }

    private suspend fun participant(): Participant = opening.withLock { opened() }

    private fun opened() = participant ?: open(notebook.value.isTakingPart).also { participant = it }

    /** What stands against the user's wish is said, and is no reason to fall over. */
    private suspend fun guarded(action: suspend () -> Unit) {
        try {
            action()
        } catch (error: CooperLLMError) {
            mutableRound.update { it.copy(notice = noticeOf(error)) }
        } catch (_: IOException) {
            mutableRound.update { it.copy(notice = Notice.NoSpace) }
        }
    }

    private fun close() {
        participant?.close()
        participant = null
    }

    private companion object {
        const val EVENTS_BEHIND = 64
        val FINISHED = Outcome(isFinished = true)
    }
}
