package org.cooperllm.runtime.session

import kotlinx.coroutines.delay
import org.cooperllm.runtime.ServerUnreachable
import kotlin.math.min
import kotlin.math.pow

/** A failure that may pass. Raised by a call that [Retry.run] repeats; its text becomes part of the final error. */
internal class Transient(
    message: String,
    cause: Throwable? = null,
) : Exception(message, cause)

/**
 * Repeating a call that may succeed later: exponential pauses with full jitter, for a bounded time.
 *
 * The pause before attempt k is uniform in [0, min(longestPauseMs, firstPauseMs * 2^k)], so that devices which lost the
 * cloud together do not come back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). Before the
 * first answer ever the patience is [firstContactMs]: a wrong address should show soon.
 *
 * [clockMs] is monotonic, [uniform] picks from [low, high], [pause] waits.
 */
internal class Retry(
    private val firstContactMs: Double = 10_000.0,
    private val patienceMs: Double = 300_000.0,
    private val firstPauseMs: Double = 200.0,
    private val longestPauseMs: Double = 10_000.0,
    val clockMs: () -> Double = { System.nanoTime() / 1e6 },
    private val uniform: (Double, Double) -> Double = { low, high -> low + Math.random() * (high - low) },
    private val pause: suspend (Double) -> Unit = { delay(it.toLong()) },
) {
    @Volatile
    private var reached = false

    /**
     * Calls until it answers. Other errors than Transient pass through at once.
     *
     * Raises ServerUnreachable, naming [where], when patience ends: try again later.
     */
    suspend fun <T> run(
        where: String,
        call: suspend () -> T,
    ): T {
        val startedMs = clockMs()
        var attempt = 0
        while (true) {
            try {
                return call().also { reached = true }
            } catch (failure: Transient) {
                val pauseMs = uniform(0.0, min(longestPauseMs, firstPauseMs * 2.0.pow(attempt)))
                val limitMs = if (reached) patienceMs else min(firstContactMs, patienceMs)
                if (clockMs() - startedMs + pauseMs > limitMs) {
                    val why = "no answer from $where (${failure.message}): check the address and that the service runs"
                    throw ServerUnreachable(why, failure)
                }
                pause(pauseMs)
                attempt = min(attempt + 1, MOST_DOUBLINGS)
            }
        }
    }

    private companion object {
        /** Keeps the power a number. */
        const val MOST_DOUBLINGS = 60
    }
}
