package org.cooperllm.demo

import org.cooperllm.android.Condition
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.StoreFull
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Live

/** Why the app practises no more, or cannot. */
internal sealed class Notice {
    data object NoAnswer : Notice()

    data object Finished : Notice()

    data object NoSpace : Notice()

    /** The service or the phone refuses; an update of the app may help. */
    data object Refused : Notice()

    data class NotNow(
        val missing: Set<Condition>,
    ) : Notice()
}

/** What the user is told of an error; null: nothing, since it was the user who stopped it. */
internal fun noticeOf(error: CooperLLMError): Notice? =
    when (error) {
        is Stopped -> null
        is ServerUnreachable -> Notice.NoAnswer
        is StoreFull -> Notice.NoSpace
        else -> Notice.Refused
    }

/**
 * What the phone does at the moment, from the device's events: state in, event in, state out.
 *
 * @property isPractising whether the user started it with the app open
 * @property isAtWork whether a turn is under way, started by the user or by a job
 * @property isWaiting whether the service had nothing to do for this phone
 * @property live the device's own account of where it stands
 * @property hasModel whether the sorter is on this phone; null while nobody asked
 */
internal data class RoundState(
    val isPractising: Boolean = false,
    val isAtWork: Boolean = false,
    val isWaiting: Boolean = false,
    val live: Live = Live(),
    val round: Long? = null,
    val hasModel: Boolean? = null,
    val notice: Notice? = null,
) {
    fun after(event: Event): RoundState =
        when (event.name) {
            "wait" -> copy(live = event.live, isWaiting = true)
            "task" -> copy(live = event.live, isWaiting = false, round = event.fields["round"] as? Long ?: round)
            "phase" -> copy(live = event.live, isWaiting = isWaiting && event.live.phase == "check_in")
            else -> copy(live = event.live)
        }

    fun practising(): RoundState = copy(isPractising = true, notice = null)

    fun turning(isAtWork: Boolean): RoundState = copy(isAtWork = isAtWork)

    fun ended(why: Notice?): RoundState = copy(isPractising = false, isAtWork = false, isWaiting = false, notice = why)
}
