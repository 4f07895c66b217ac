package org.cooperllm.runtime.session

import org.cooperllm.protos.GuideChunk

/**
 * How fast the link brings guides: the bytes of chunks that had waited for it over the seconds between their arrivals.
 *
 * Between two chunks of which the second was ready when the first left, nothing but the link took time. [clockMs] is
 * monotonic.
 */
internal class LinkSpeed(
    private val clockMs: () -> Double,
) {
    private var cameMs: Double? = null
    private var queuedBytes = 0L
    private var tookMs = 0.0

    /** 0 until enough arrived to tell. */
    val bytesPerS: Double
        get() = if (queuedBytes >= LEAST_BYTES && tookMs > 0) queuedBytes / (tookMs / MS_PER_S) else 0.0

    /** Hears that another stream begins: what lies between its first chunk and the last of another is no link's. */
    fun began() {
        cameMs = null
    }

    /** Hears of a chunk as it arrives. */
    fun arrived(chunk: GuideChunk) {
        val nowMs = clockMs()
        val beforeMs = cameMs
        cameMs = nowMs
        if (!chunk.queued || beforeMs == null) return
        queuedBytes += chunk.serializedSize
        tookMs += nowMs - beforeMs
    }

    private companion object {
        const val LEAST_BYTES = 4096
        const val MS_PER_S = 1000.0
    }
}
