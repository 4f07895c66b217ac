package org.cooperllm.runtime.session

import org.cooperllm.protos.Task
import org.cooperllm.runtime.BudgetExceeded
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.store.State

/** The account of what left, by round: kept in the state, written in the same moment as the report that discloses. */
internal object Account {
    private const val ROUNDS_REMEMBERED = 64
    private const val OF_AN_EVALUATION = 3

    /**
     * What a round has cost so far: scalars, and of these the head's alone.
     *
     * Raises BudgetExceeded for a round older than those remembered, whose account is gone.
     */
    fun of(
        round: Long,
        state: State,
    ): List<Int> {
        val oldest = state.disclosed.keys.minOfOrNull { it.toLong() }
        if (state.disclosed.size >= ROUNDS_REMEMBERED && oldest != null && round < oldest) {
            throw BudgetExceeded("this round is too long ago to know what was disclosed in it: ask about a newer one")
        }
        return state.disclosed[round.toString()] ?: listOf(0, 0)
    }

    /** Raises BudgetExceeded for a second evaluation in a round, unless it repeats the first: that says nothing new. */
    fun checkEvaluation(
        round: Long,
        state: State,
    ) {
        val before = state.evaluated[round.toString()]
        if (before != null && before != state.adapterSha256) {
            throw BudgetExceeded("another adapter was evaluated in this round: ask for one evaluation a round")
        }
    }

    /** What a report of so many bytes about a finding tells. */
    fun disclosure(
        task: Task,
        finding: Finding,
        whenMs: Double,
        bytesSent: Int,
    ): Disclosure {
        val evaluated = if (finding.evaluation == null) 0 else OF_AN_EVALUATION
        return Disclosure(
            whenMs,
            task.round,
            task.kindCase.name.lowercase(),
            finding.scalars.size + finding.segmentScores.size + evaluated,
            finding.cost.headScalars.toInt(),
            bytesSent,
        )
    }

    /** The state with what a finding discloses in its round; only the newest rounds are kept. */
    fun charge(
        state: State,
        round: Long,
        finding: Finding,
    ): State {
        var charged = state
        if (finding.cost != Cost.NOTHING) {
            val before = state.disclosed[round.toString()] ?: listOf(0, 0)
            val now =
                listOf(
                    before[0] + finding.cost.scalars.toInt(),
                    before[1] + finding.cost.headScalars.toInt(),
                )
            val all = state.disclosed + (round.toString() to now)
            val newest = all.keys.sortedBy { it.toLong() }.takeLast(ROUNDS_REMEMBERED)
            charged = charged.copy(disclosed = newest.associateWith { all.getValue(it) })
        }
        if (finding.evaluation != null) {
            val newest = state.evaluated.filterKeys { it.toLong() + ROUNDS_REMEMBERED > round }
            charged = charged.copy(evaluated = newest + (round.toString() to state.adapterSha256))
        }
        return charged
    }
}
