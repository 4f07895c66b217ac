package org.cooperllm.android

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.content.Context
import android.content.Intent
import android.graphics.drawable.Icon
import org.cooperllm.runtime.session.Event

/**
 * Says that the phone is at work, what it does, and offers to stop it.
 *
 * An ongoing notification, not a foreground service: since Android 12 an app in the background may start none, and a job
 * needs none. From Android 13 on it is seen only where the user allowed the app's notifications; the app asks.
 */
internal class TrainingNotification(
    private val context: Context,
) {
    private val manager get() = checkNotNull(context.getSystemService(NotificationManager::class.java))

    /** Shows the phase that an event tells of; other events change nothing. */
    fun show(event: Event) {
        val phase = event.fields["phase"] as? String ?: return
        val step = PHASES.indexOfFirst { it.first == phase }
        if (step < 0) return
        val channel =
            NotificationChannel(
                CHANNEL,
                context.getString(R.string.cooperllm_channel_name),
                NotificationManager.IMPORTANCE_LOW,
            )
        channel.description = context.getString(R.string.cooperllm_channel_description)
        channel.setShowBadge(false)
        manager.createNotificationChannel(channel)
        manager.notify(ID, build(step))
    }

    fun remove() = manager.cancel(ID)

    private fun build(step: Int): Notification =
        Notification
            .Builder(context, CHANNEL)
            .setSmallIcon(R.drawable.cooperllm_training)
            .setContentTitle(context.getString(R.string.cooperllm_title))
            .setContentText(context.getString(PHASES[step].second))
            .setProgress(PHASES.size, step + 1, false)
            .setCategory(Notification.CATEGORY_PROGRESS)
            .setVisibility(Notification.VISIBILITY_PUBLIC)
            .setOngoing(true)
            .setOnlyAlertOnce(true)
            .setLocalOnly(true)
            // If the process dies, nothing else would take it away.
            .setTimeoutAfter(TrainingRun.LIMIT_MS)
            .addAction(stop())
            .build()

    private fun stop(): Notification.Action {
        val intent = Intent(context, StopReceiver::class.java)
        val pressed = PendingIntent.getBroadcast(context, 0, intent, PendingIntent.FLAG_IMMUTABLE)
        val icon = Icon.createWithResource(context, R.drawable.cooperllm_training)
        return Notification.Action.Builder(icon, context.getString(R.string.cooperllm_stop), pressed).build()
    }

    companion object {
        const val CHANNEL = "org.cooperllm.training"
        const val ID = TrainingSchedule.JOB_ID

        /** A turn's phases in their order, and what the user reads. */
        val PHASES =
            listOf(
                "enroll" to R.string.cooperllm_phase_enroll,
                "check_in" to R.string.cooperllm_phase_check_in,
                "fetch" to R.string.cooperllm_phase_fetch,
                "version" to R.string.cooperllm_phase_version,
                "guides" to R.string.cooperllm_phase_guides,
                "compute" to R.string.cooperllm_phase_compute,
                "report" to R.string.cooperllm_phase_report,
            )
    }
}
