package org.cooperllm.android

import android.content.BroadcastReceiver
import android.content.Context
import android.content.Intent

/** The notification's stop button: ends the job that runs, and holds the next ones for six hours. */
public class StopReceiver : BroadcastReceiver() {
    override fun onReceive(
        context: Context,
        intent: Intent,
    ) {
        TrainingHold(context).begin(TrainingHold.AFTER_STOP_MS)
        TrainingJobService.current?.stop()
        // Also where the process that posted it is gone.
        TrainingNotification(context).remove()
    }
}
