package org.cooperllm.runtime.store

import java.io.File

/** A process that writes round after round until it is killed: a program for StoreProcessTest. */
internal fun main(arguments: Array<String>) {
    Store(File(arguments[0])).use { store ->
        var round = store.state.pendingRound
        println("ready")
        while (true) {
            round++
            store.writeAdapter(round, StoreRound.adapter(round))
            for (j in store.progress.of("$round").size until StoreRound.SCALARS) {
                store.progress.add("$round", listOf(StoreRound.scalar(round, j)))
            }
            store.update { StoreRound.state(it, round) }
            store.progress.clear()
        }
    }
}

/** What the writer keeps of a round. */
internal object StoreRound {
    const val SCALARS: Int = 5

    fun adapter(round: Long): ByteArray = ByteArray(12_000) { (round shr 8 * (it % 4)).toByte() }

    fun scalar(
        round: Long,
        j: Int,
    ): Double = round + j / 8.0

    fun state(
        before: State,
        round: Long,
    ): State =
        before.copy(
            pendingRound = round,
            disclosed = (maxOf(1, round - 60)..round).associate { "$it" to listOf(it.toInt(), 0) },
            pendingReport = "ab".repeat((round % 700).toInt()),
        )
}
