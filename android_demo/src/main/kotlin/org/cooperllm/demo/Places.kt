package org.cooperllm.demo

import android.content.Context

/** Where notes can belong: the classes that the sorter knows, and what the user reads. */
internal object Places {
    val NAMES: Map<String, Int> =
        mapOf(
            "lists_notes" to R.string.place_lists_notes,
            "calendar_reminders" to R.string.place_calendar_reminders,
            "alarm_timer" to R.string.place_alarm_timer,
            "calls_messages" to R.string.place_calls_messages,
            "media" to R.string.place_media,
            "smart_home" to R.string.place_smart_home,
            "travel" to R.string.place_travel,
            "weather" to R.string.place_weather,
        )

    /** A class of a later sorter has no name here: it is shown as it is. */
    fun name(
        context: Context,
        place: String,
    ): String = NAMES[place]?.let(context::getString) ?: place
}
