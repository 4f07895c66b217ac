package org.cooperllm.runtime

/**
 * One report to the cloud: what left this device about its examples. Never a text, a label or a loss of one example.
 *
 * It was written down before the report left, so it is there even where the report was lost on its way. Beside reports
 * a device sends its key, its signatures, what it holds, its limits, and how many examples it has, in eights.
 *
 * @property whenMs the device's clock, milliseconds since 1970
 * @property round of the job that asked
 * @property kind of the task: directions, evaluate or score_segments
 * @property scalars numbers about the examples: projected gradients, segment scores, or the three of an evaluation (mean
 * loss, right answers, count). 0 where the device refused the task
 * @property headScalars those of the projected gradients that are about the head alone
 * @property bytesSent the size of the report
 */
public data class Disclosure(
    public val whenMs: Double,
    public val round: Long,
    public val kind: String,
    public val scalars: Int,
    public val headScalars: Int,
    public val bytesSent: Int,
)
