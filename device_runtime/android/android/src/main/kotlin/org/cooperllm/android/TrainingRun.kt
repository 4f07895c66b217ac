package org.cooperllm.android

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.selects.select
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.session.Event

/**
 * One job's turns, until the first of: the cloud's job is over, it wants a longer wait, a condition goes away, the time
 * is up, somebody stops it, something fails.
 *
 * @param open the work; not asked for while conditions are missing, since opening a program takes memory
 * @param missing the required conditions that do not hold
 * @param elapsedMs milliseconds that pass while the phone sleeps, too
 * @param limitMs after how many milliseconds the time is up
 */
internal class TrainingRun(
    private val open: () -> TrainingWork,
    private val missing: () -> Set<Condition>,
    private val elapsedMs: () -> Long,
    private val limitMs: Long = LIMIT_MS,
    private val onEvent: suspend (Event) -> Unit = {},
) {
    private val stopping = CompletableDeferred<TrainingEnd>()

    /** Ends the run; from any thread. */
    fun stop() {
        stopping.complete(TrainingEnd.Stopped)
    }

    suspend fun run(): TrainingEnd {
        val absent = missing()
        if (absent.isNotEmpty()) return TrainingEnd.ConditionsMissing(absent)
        return coroutineScope {
            val turns = async { takeTurns() }
            val guard = async { guard(elapsedMs() + limitMs) }
            val end =
                select {
                    stopping.onAwait { it }
                    turns.onAwait { it }
                    guard.onAwait { it }
                }
            guard.cancel()
            // Until the turn is at rest the next job must not begin.
            turns.cancelAndJoin()
            end
        }
    }

    private suspend fun guard(endMs: Long): TrainingEnd {
        while (true) {
            delay(DeviceConditions.CHECK_INTERVAL_MS)
            val absent = missing()
            if (absent.isNotEmpty()) return TrainingEnd.ConditionsMissing(absent)
            if (elapsedMs() >= endMs) return TrainingEnd.TimeUp
        }
    }

    private suspend fun takeTurns(): TrainingEnd =
        try {
            val work = open()
            coroutineScope {
                val told = launch(start = CoroutineStart.UNDISPATCHED) { work.progress.collect { onEvent(it) } }
                try {
                    turns(work)
                } finally {
                    told.cancel()
                }
            }
        } catch (error: CancellationException) {
            throw error
        } catch (_: Stopped) {
            TrainingEnd.Stopped
        } catch (error: Exception) {
            // An app's own mistake included: a job in the background is no place to crash the app.
            TrainingEnd.Failed(error)
        }

    private suspend fun turns(work: TrainingWork): TrainingEnd {
        while (true) {
            val outcome = work.runOnce()
            if (outcome.isFinished) return TrainingEnd.Finished
            if (outcome.waitMs > LONGEST_PAUSE_MS) return TrainingEnd.Waiting(outcome.waitMs)
            delay(outcome.waitMs.toLong())
        }
    }

    companion object {
        /** The system ends a job after 10 minutes; what is under way needs a moment to come to rest. */
        const val LIMIT_MS = 9L * 60 * 1000

        /** A pause keeps the phone awake: a longer one is left to the scheduler. */
        const val LONGEST_PAUSE_MS = 20_000.0
    }
}
