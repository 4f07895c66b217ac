package org.cooperllm.android

import android.app.job.JobParameters
import android.app.job.JobService
import android.os.SystemClock
import android.util.Log
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.cooperllm.runtime.InputError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.ServerRefused
import java.util.concurrent.Executors

/**
 * Works while the conditions hold: what [TrainingSchedule] schedules, and the manifest of this library declares.
 *
 * Each job takes turns of the app's [TrainingHost.trainingWork] on one thread of its own, and ends within the system's 10
 * minutes. One works at a time in a process. A process that dies is started again by the system, and the work goes on
 * behind the last finished direction.
 */
public class TrainingJobService : JobService() {
    private val thread = Executors.newSingleThreadExecutor { Thread(it, THREAD) }.asCoroutineDispatcher()
    private val scope = CoroutineScope(SupervisorJob() + thread)
    private var job: Job? = null

    /** Begins, unless a hold or a missing [TrainingHost] says that there is nothing to do now. */
    override fun onStartJob(params: JobParameters): Boolean {
        val host = applicationContext as? TrainingHost
        if (host == null) {
            Log.e(THREAD, "the class that the manifest's application names must implement TrainingHost")
            return false
        }
        if (TrainingHold(this).holds) return false
        job?.cancel()
        job = scope.launch { oneAtATime.withLock { work(host, params) } }
        return true
    }

    /** The system wants the phone back: what is under way ends within a second or so, and the job is run again later. */
    override fun onStopJob(params: JobParameters): Boolean {
        job?.cancel()
        job = null
        return true
    }

    override fun onDestroy() {
        // The thread goes when what is under way has come to rest.
        scope.coroutineContext[Job]?.invokeOnCompletion { thread.close() }
        scope.cancel()
        super.onDestroy()
    }

    private suspend fun work(
        host: TrainingHost,
        params: JobParameters,
    ) {
        val conditions = DeviceConditions(this, host.requiredConditions)
        val notification = TrainingNotification(this)
        val run =
            TrainingRun(host::trainingWork, conditions::missing, SystemClock::elapsedRealtime) { notification.show(it) }
        val end =
            try {
                current = run
                run.run()
            } finally {
                current = null
                notification.remove()
            }
        hold(end)
        jobFinished(params, end is TrainingEnd.TimeUp || end is TrainingEnd.ConditionsMissing)
        if (end is TrainingEnd.Finished) TrainingSchedule.cancel(this)
        host.onTrainingEnd(end)
    }

    private fun hold(end: TrainingEnd) {
        val hold = TrainingHold(this)
        when (end) {
            is TrainingEnd.Waiting -> hold.begin(end.waitMs.toLong())
            is TrainingEnd.Failed -> if (isLasting(end.error)) hold.begin(TrainingHold.AFTER_REFUSAL_MS)
            else -> Unit
        }
    }

    private fun isLasting(error: Exception) =
        when (error) {
            // A matter of clocks, more often than not.
            is NotEnrolled -> false

            is ServerRefused, is InputError, is ProgramError -> true

            else -> false
        }

    internal companion object {
        private const val THREAD = "cooperllm"

        /** Over all instances: the system may make a new one while the last turn of another comes to rest. */
        private val oneAtATime = Mutex()

        /** What the stop button stops. */
        @Volatile
        var current: TrainingRun? = null
            private set
    }
}
