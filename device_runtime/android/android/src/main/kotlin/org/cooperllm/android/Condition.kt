package org.cooperllm.android

/** Under which conditions a device works; the Python device has the same names. */
public enum class Condition {
    /**
     * The thermal status is below MODERATE. Before Android 10, which has none: the battery is below 40 °C and the
     * system does not call it overheated.
     */
    COOL,

    /** The battery is not discharging. */
    CHARGING,

    /** The system does not call the battery low, and it is charging or holds at least 30 %. */
    BATTERY,

    /** The screen is off. JobScheduler's own idle is stricter: nobody has used the phone for a while. */
    IDLE,

    /** The active network is not metered. */
    UNMETERED,
    ;

    public companion object {
        /** What a job requires unless the app says otherwise: all but charging. */
        @JvmField
        public val DEFAULT: Set<Condition> = setOf(COOL, BATTERY, IDLE, UNMETERED)
    }
}
