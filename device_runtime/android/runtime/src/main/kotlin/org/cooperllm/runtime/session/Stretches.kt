package org.cooperllm.runtime.session

import kotlinx.coroutines.sync.withLock
import org.cooperllm.protos.Task
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.TaskLost

/**
 * Computing a task in as many stretches as the conditions that the device requires allow.
 *
 * Work ends at the next finished direction when a condition no longer holds; the lease is kept, and the next stretch goes
 * on behind that direction. Nothing is locked in between: the app may use the adapter. [pause] waits so many
 * milliseconds.
 */
internal class Stretches(
    private val watch: Watch,
    private val journal: Journal,
    private val tasks: Tasks,
    private val pause: suspend (Double) -> Unit,
) {
    private var isPaused = false
    private var leaseEndsMs: Double? = null

    /** Whether all that is required holds; tells when that changes. */
    fun conditionsHold(): Boolean {
        val missing = watch.missing()
        if (missing.isNotEmpty() != isPaused) {
            isPaused = missing.isNotEmpty()
            if (isPaused) journal.tell("paused", "missing" to missing) else journal.tell("resumed")
        }
        return missing.isEmpty()
    }

    /** Whether what is waited for may still be of use to this session. */
    fun isWanted(): Boolean = watch.isWanted() && !watch.isTimeUp

    /** Counts a lease from now on: the check-in has just answered. */
    fun beginLease(task: Task) {
        val leaseMs = task.leaseRemainingMs.toLong() and UNSIGNED
        leaseEndsMs = if (leaseMs == 0L) null else watch.elapsedMs() + leaseMs
    }

    /**
     * Carries a task out. Raises as [Tasks.carryOut] does, TaskLost when the lease ends before the conditions hold again,
     * and Stopped when the session's time is up.
     */
    suspend fun compute(
        task: Task,
        ready: Ready,
        engine: Engine,
        private: PrivateExamples,
    ): Finding {
        val before = engine.work
        while (true) {
            val startMs = journal.phase("compute")
            try {
                val finding = engine.lock.withLock { tasks.carryOut(task, ready, engine, private, ::mayGoOn) }
                return finding.copy(work = engine.work - before)
            } catch (stopped: Stopped) {
                if (!isPaused) throw stopped
            } finally {
                journal.span("compute", startMs)
            }
            awaitConditions()
        }
    }

    /** Asked between directions. */
    private fun mayGoOn(): Boolean = watch.isWanted() && conditionsHold() && !watch.isTimeUp

    private suspend fun awaitConditions() {
        while (!conditionsHold()) {
            if (watch.isTimeUp) throw Stopped("the session's time is up: the task goes on in the next one")
            val ends = leaseEndsMs
            if (ends != null && watch.elapsedMs() >= ends) {
                throw TaskLost("the lease expired while this device waited for its conditions")
            }
            pause(Watch.CHECK_INTERVAL_MS)
        }
    }

    private companion object {
        const val UNSIGNED = 0xFFFFFFFFL
    }
}
