package org.cooperllm.demo

import org.cooperllm.android.Condition
import org.cooperllm.runtime.Disclosure

/** What the line under "Right now" says. */
internal sealed class Status {
    data object Off : Status()

    data class NeedsNotes(
        val count: Int,
    ) : Status()

    data object Resting : Status()

    data object Waiting : Status()

    data class Working(
        val phase: String,
        val round: Long?,
    ) : Status()

    data class Ended(
        val notice: Notice,
    ) : Status()
}

/**
 * The page about learning.
 *
 * @property canPractise whether the button can be pressed
 * @property isWorking whether tries and progress mean something at the moment
 */
internal data class LearningScreen(
    val isTakingPart: Boolean,
    val status: Status,
    val canPractise: Boolean,
    val isPractising: Boolean,
    val isWorking: Boolean,
    val triesDone: Int,
    val triesAll: Int,
    val memoryBytes: Long,
    val receivedBytes: Long,
    val sentBytes: Long,
    val chart: Chart?,
) {
    companion object {
        /** A phone learns from at least 8 notes and keeps a tenth apart. */
        const val ENOUGH_NOTES = 12

        fun of(
            notebook: Notebook,
            round: RoundState,
        ): LearningScreen {
            val status = status(notebook, round)
            val live = round.live
            return LearningScreen(
                isTakingPart = notebook.isTakingPart,
                status = status,
                canPractise = round.isPractising || (notebook.isTakingPart && status !is Status.NeedsNotes),
                isPractising = round.isPractising,
                isWorking = status is Status.Working,
                triesDone = live.directionsDone,
                triesAll = live.directionsAll,
                memoryBytes = live.engineBytes,
                receivedBytes = live.downlinkBytes,
                sentBytes = live.uplinkBytes,
                chart = Chart.of(notebook),
            )
        }

        private fun status(
            notebook: Notebook,
            round: RoundState,
        ): Status {
            val lacking = ENOUGH_NOTES - notebook.checked.size
            val notice = round.notice
            return when {
                !notebook.isTakingPart -> Status.Off
                lacking > 0 -> Status.NeedsNotes(lacking)
                round.isWaiting -> Status.Waiting
                round.isAtWork -> Status.Working(round.live.phase, round.round)
                notice != null -> Status.Ended(notice)
                else -> Status.Resting
            }
        }
    }
}

/**
 * How many of the notes that the user checked, and the sorter has seen, it gets right.
 *
 * @property first of them, with what it said the first time
 * @property now of them, with what it says now
 * @property shares from first to now, one for each adapter version between
 */
internal data class Chart(
    val all: Int,
    val first: Int,
    val now: Int,
    val shares: List<Double>,
) {
    companion object {
        /** Null while there is nothing to show. */
        fun of(notebook: Notebook): Chart? {
            val seen = notebook.checked.filter { it.first != null && it.now != null }
            if (seen.isEmpty()) return null
            val first = seen.count { it.first == it.label }
            val now = seen.count { it.now == it.label }
            val between = notebook.scores.map { it.right.toDouble() / it.all }
            // The first score is of the version that spoke first, the last of the one that speaks now.
            val inner = between.drop(1).dropLast(1)
            val size = seen.size.toDouble()
            return Chart(seen.size, first, now, listOf(first / size) + inner + listOf(now / size))
        }
    }
}

/** The page about what left the phone. */
internal data class SentScreen(
    val messages: List<Disclosure>,
) {
    val numbers: Int = messages.sumOf { it.scalars }
    val sizeBytes: Long = messages.sumOf { it.bytesSent.toLong() }
}

/** The condition to name where several are missing: what the user can do most about. */
internal fun Set<Condition>.foremost(): Condition? =
    listOf(Condition.UNMETERED, Condition.BATTERY, Condition.COOL).firstOrNull { it in this } ?: firstOrNull()
