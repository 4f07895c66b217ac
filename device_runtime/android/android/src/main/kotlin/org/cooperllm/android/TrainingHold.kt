package org.cooperllm.android

import android.content.Context

/**
 * Until when no job works: the cloud asked for it, the user pressed stop, or trying again at once makes no sense.
 *
 * Kept over restarts. A clock that jumps back ends a hold, so that none outlasts what was asked for.
 */
internal class TrainingHold(
    context: Context,
    private val clockMs: () -> Long = System::currentTimeMillis,
) {
    private val stored = context.getSharedPreferences(FILE, Context.MODE_PRIVATE)

    val holds: Boolean
        get() {
            val begunMs = stored.getLong(BEGUN_MS, 0)
            return clockMs() - begunMs in 0 until stored.getLong(HOLD_MS, 0)
        }

    /** Begins a hold of [holdMs] milliseconds in the place of any before it. */
    fun begin(holdMs: Long) {
        stored
            .edit()
            .putLong(BEGUN_MS, clockMs())
            .putLong(HOLD_MS, holdMs)
            .apply()
    }

    fun end() {
        stored.edit().clear().apply()
    }

    companion object {
        /** After the stop button: not again in the same evening. */
        const val AFTER_STOP_MS = 6L * 60 * 60 * 1000

        /** After an error that another attempt will not cure, until the app is corrected or the cloud changes. */
        const val AFTER_REFUSAL_MS = 24L * 60 * 60 * 1000

        private const val FILE = "org.cooperllm.training"
        private const val BEGUN_MS = "begun_ms"
        private const val HOLD_MS = "hold_ms"
    }
}
