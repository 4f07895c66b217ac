package org.cooperllm.demo

import android.content.Context
import android.view.View
import android.widget.Button
import android.widget.ProgressBar
import android.widget.Switch
import android.widget.TextView
import org.cooperllm.android.Condition
import org.cooperllm.android.R as LibraryR

/** Consent, the round as it runs, and the chart. */
internal class LearningPage(
    private val page: View,
    private val onConsent: (Boolean) -> Unit,
    onPractise: (isWanted: Boolean) -> Unit,
) {
    private val context: Context = page.context
    private val consent = page.find<Switch>(R.id.consent)
    private val status = page.find<TextView>(R.id.status)
    private val button = page.find<Button>(R.id.practise)
    private var screen: LearningScreen? = null

    init {
        // What the system restores after a rotation is no decision of the user's.
        consent.isSaveEnabled = false
        button.setOnClickListener { onPractise(screen?.isPractising == false) }
    }

    fun show(next: LearningScreen) {
        screen = next
        consent.setOnCheckedChangeListener(null)
        consent.isChecked = next.isTakingPart
        consent.setOnCheckedChangeListener { _, isOn -> onConsent(isOn) }
        val explained = if (next.isTakingPart) R.string.consent_text_on else R.string.consent_text
        page.find<TextView>(R.id.consent_text).setText(explained)
        val said = said(next.status)
        // Said anew only where it is new: a screen reader speaks every change.
        if (status.text.toString() != said) status.text = said
        button.isShown(next.isTakingPart)
        button.isEnabled = next.canPractise
        button.setText(if (next.isPractising) R.string.now_stop else R.string.now_start)
        showFigures(next)
        showChart(next.chart)
    }

    private fun showFigures(next: LearningScreen) {
        val isAtIt = next.isPractising || next.isWorking
        page.find<View>(R.id.figure_tries).isShown(isAtIt)
        page.find<View>(R.id.figures).isShown(next.isTakingPart)
        page.find<ProgressBar>(R.id.bar).let {
            it.isShown(isAtIt)
            it.isIndeterminate = false
            it.max = maxOf(1, next.triesAll)
            it.progress = next.triesDone
        }
        val none = context.getString(R.string.figure_none)
        val tries = context.getString(R.string.figure_tries_of, next.triesDone, next.triesAll)
        page.find<TextView>(R.id.tries).text = if (next.triesAll == 0) none else tries
        page.find<TextView>(R.id.memory).text = size(next.memoryBytes)
        page.find<TextView>(R.id.received).text = size(next.receivedBytes)
        page.find<TextView>(R.id.sent).text = size(next.sentBytes)
    }

    private fun showChart(chart: Chart?) {
        page.find<AccuracyChart>(R.id.chart).let {
            it.isShown(chart != null)
            if (chart != null) it.show(chart)
        }
        page.find<TextView>(R.id.chart_text).text =
            if (chart == null) {
                context.getString(R.string.chart_empty)
            } else {
                context.resources.getQuantityString(R.plurals.chart_text, chart.all, chart.all, chart.first, chart.now)
            }
    }

    private fun size(sizeBytes: Long) = if (sizeBytes == 0L) context.getString(R.string.figure_none) else context.size(sizeBytes)

    private fun said(status: Status): String =
        when (status) {
            Status.Off -> context.getString(R.string.now_off)
            is Status.NeedsNotes -> needs(status.count)
            Status.Resting -> context.getString(R.string.now_resting)
            Status.Waiting -> context.getString(R.string.now_waiting)
            is Status.Working -> context.getString(phase(status.phase))
            is Status.Ended -> context.getString(notice(status.notice))
        }

    private fun needs(count: Int) = context.resources.getQuantityString(R.plurals.now_needs_notes, count, count)

    private fun phase(name: String) =
        when (name) {
            "enroll" -> LibraryR.string.cooperllm_phase_enroll
            "fetch" -> LibraryR.string.cooperllm_phase_fetch
            "version" -> LibraryR.string.cooperllm_phase_version
            "guides" -> LibraryR.string.cooperllm_phase_guides
            "compute" -> LibraryR.string.cooperllm_phase_compute
            "report" -> LibraryR.string.cooperllm_phase_report
            else -> LibraryR.string.cooperllm_phase_check_in
        }

    private fun notice(notice: Notice) =
        when (notice) {
            Notice.Finished -> R.string.now_finished
            Notice.NoAnswer -> R.string.now_no_answer
            Notice.NoSpace -> R.string.now_no_space
            Notice.Refused -> R.string.now_refused
            is Notice.NotNow -> condition(notice.missing.foremost())
        }

    private fun condition(missing: Condition?) =
        when (missing) {
            Condition.BATTERY, Condition.CHARGING -> R.string.now_battery
            Condition.COOL -> R.string.now_hot
            Condition.UNMETERED -> R.string.now_metered
            else -> R.string.now_resting
        }
}
