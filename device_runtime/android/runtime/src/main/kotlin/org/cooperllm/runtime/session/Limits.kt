package org.cooperllm.runtime.session

import org.cooperllm.runtime.OptionError

/**
 * What a device may take from its machine. (What it may tell about its data is another matter: [Budget].)
 *
 * Raises OptionError for a number below 1: correct the app.
 *
 * @property maxMemoryBytes of a loaded bundle: weights, activations, adapter and hidden states, beside the virtual machine's
 * own. A bundle that takes more is refused with BundleTooLarge, here and to the cloud; null: no limit
 * @property maxDurationMs of one session, from its first turn on, pauses included: work ends at the next finished direction
 * and goes on there in the next session. A download, an evaluation and one direction are never cut; null: no limit
 * @property maxStateBytes of memory for hidden states that are kept from task to task, within [maxMemoryBytes]; more of
 * them go to a file without a name in the device's folder, in half the bytes
 */
public class Limits
    @JvmOverloads
    constructor(
        public val maxMemoryBytes: Long? = null,
        public val maxDurationMs: Long? = null,
        public val maxStateBytes: Long = StateRoom.MOST_BYTES,
    ) {
        init {
            if (maxMemoryBytes != null && maxMemoryBytes < 1) {
                throw OptionError("maxMemoryBytes must be at least 1: leave it out for no limit")
            }
            if (maxDurationMs != null && maxDurationMs < 1) {
                throw OptionError("maxDurationMs must be at least 1: leave it out for no limit")
            }
            if (maxStateBytes < 0) throw OptionError("maxStateBytes cannot be negative: use 0 for a file alone")
        }
    }

/**
 * What has to be true of the machine while a device works: charging, for instance. An app that starts turns from a
 * scheduler, which ends them when its conditions go away, needs none.
 */
public fun interface Conditions {
    /**
     * The names of what is required and does not hold at this moment; empty: work may go on. Asked before every turn and
     * between directions, at most once a second, from the thread that computes.
     */
    public fun missing(): List<String>
}

/**
 * Says whether work may go on; asked before every turn and between directions.
 *
 * [elapsedMs] is a monotonic clock; [isWanted] is false once somebody stopped the work.
 */
internal class Watch(
    private val limits: Limits = Limits(),
    private val conditions: Conditions = Conditions { emptyList() },
    val elapsedMs: () -> Double = { System.nanoTime() / NS_PER_MS },
    val isWanted: () -> Boolean = { true },
) {
    private var checkedMs = Double.NEGATIVE_INFINITY
    private var lastMissing = emptyList<String>()
    private var endsMs: Double? = null

    /** From now on the session's duration counts anew. */
    fun beginSession() {
        endsMs = limits.maxDurationMs?.let { elapsedMs() + it }
    }

    /** Whether the session has lasted as long as it may. */
    val isTimeUp: Boolean get() = endsMs?.let { elapsedMs() >= it } ?: false

    /** A pause, no longer than until the session's end. */
    fun withinSession(pauseMs: Double): Double = endsMs?.let { maxOf(0.0, minOf(pauseMs, it - elapsedMs())) } ?: pauseMs

    /** Whether work may go on at this moment. */
    fun goesOn(): Boolean = isWanted() && !isTimeUp && missing().isEmpty()

    /** What is required and does not hold, as of at most a second ago. */
    fun missing(): List<String> {
        val nowMs = elapsedMs()
        if (nowMs - checkedMs >= CHECK_INTERVAL_MS) {
            lastMissing = conditions.missing()
            checkedMs = nowMs
        }
        return lastMissing
    }

    companion object {
        /** How long an answer of the conditions is good for. */
        const val CHECK_INTERVAL_MS: Double = 1000.0
        private const val NS_PER_MS = 1e6
    }
}
