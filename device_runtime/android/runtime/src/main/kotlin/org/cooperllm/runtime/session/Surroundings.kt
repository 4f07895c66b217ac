package org.cooperllm.runtime.session

import kotlinx.coroutines.delay
import java.util.UUID

/** What a session asks of the world beside the cloud: time, chance, and whether work may go on. */
internal class Surroundings(
    /** Milliseconds since 1970. */
    val clockMs: () -> Double = { System.currentTimeMillis().toDouble() },
    /** Picks an instant from [low, high]. */
    val uniform: (Double, Double) -> Double,
    /** The device's own N(0, 1) noise. */
    val gauss: () -> Double,
    /** Asked before every turn and between directions. */
    val watch: Watch = Watch(),
    /** Waits so many milliseconds. */
    val pause: suspend (Double) -> Unit = { delay(it.toLong()) },
    /** Names reports. */
    val newId: () -> String = { UUID.randomUUID().toString().replace("-", "") },
)
