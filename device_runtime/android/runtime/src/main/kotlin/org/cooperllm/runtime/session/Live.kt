package org.cooperllm.runtime.session

/**
 * Where a device stands at the moment of an [Event], for a screen that shows it live.
 *
 * @property phase what it does: enroll, check_in, fetch, version, guides, compute, report, personalise; "" before the first
 * @property directionsDone directions of the task under way that were measured
 * @property directionsAll directions that the task asks for; 0 where it asks for none
 * @property uplinkBytes sent since the device was opened
 * @property downlinkBytes received since the device was opened
 * @property engineBytes what the loaded bundle takes: weights, activations, adapter, hidden states; 0 while none is
 * @property residentBytes what of this process lies in memory, all of the app included; 0 where the system does not tell
 */
public data class Live(
    public val phase: String = "",
    public val directionsDone: Int = 0,
    public val directionsAll: Int = 0,
    public val uplinkBytes: Long = 0,
    public val downlinkBytes: Long = 0,
    public val engineBytes: Long = 0,
    public val residentBytes: Long = 0,
)
