package org.cooperllm.android

import android.app.job.JobInfo
import android.app.job.JobScheduler
import android.content.ComponentName
import android.content.Context
import org.cooperllm.runtime.OptionError

/**
 * Lets the system run [TrainingJobService] again and again while the phone is idle, on an unmetered network and not low
 * on battery; over reboots, too.
 */
public object TrainingSchedule {
    /** The job's id: an app's own jobs must have others. */
    public const val JOB_ID: Int = 0x636c6c6d

    /** The shortest interval that the system allows. */
    public const val SHORTEST_INTERVAL_MS: Long = 15L * 60 * 1000

    /**
     * Schedules the job, about once in [intervalMs] milliseconds. One that is scheduled already, with the same interval
     * and conditions, goes on undisturbed, so that an app may call this at every start.
     *
     * Raises OptionError when [intervalMs] is below [SHORTEST_INTERVAL_MS], when the application class is no
     * [TrainingHost], or when the system takes no more jobs: correct the app.
     */
    @JvmStatic
    @JvmOverloads
    public fun schedule(
        context: Context,
        intervalMs: Long = SHORTEST_INTERVAL_MS,
    ) {
        val host =
            context.applicationContext as? TrainingHost
                ?: throw OptionError("the class that the manifest's application names must implement TrainingHost")
        if (intervalMs < SHORTEST_INTERVAL_MS) {
            throw OptionError("interval_ms must be at least $SHORTEST_INTERVAL_MS: the system runs no job more often")
        }
        val job = job(context, intervalMs, host.requiredConditions)
        val scheduler = scheduler(context)
        // Scheduling anew would stop the one that runs.
        if (scheduler.getPendingJob(JOB_ID)?.let { isSame(it, job) } == true) return
        if (scheduler.schedule(job) != JobScheduler.RESULT_SUCCESS) {
            throw OptionError("the system refused the job: the app has too many of them")
        }
    }

    /** Ends the job that runs, if any, and all later ones. What was finished is kept: see FederatedDevice.forget. */
    @JvmStatic
    public fun cancel(context: Context) {
        scheduler(context).cancel(JOB_ID)
        TrainingHold(context).end()
    }

    /** Whether the job is scheduled. */
    @JvmStatic
    public fun isScheduled(context: Context): Boolean = scheduler(context).getPendingJob(JOB_ID) != null

    private fun job(
        context: Context,
        intervalMs: Long,
        required: Set<Condition>,
    ): JobInfo {
        val isUnmetered = Condition.UNMETERED in required
        return JobInfo
            .Builder(JOB_ID, ComponentName(context, TrainingJobService::class.java))
            .setRequiresDeviceIdle(Condition.IDLE in required)
            .setRequiresCharging(Condition.CHARGING in required)
            .setRequiresBatteryNotLow(Condition.BATTERY in required)
            .setRequiredNetworkType(if (isUnmetered) JobInfo.NETWORK_TYPE_UNMETERED else JobInfo.NETWORK_TYPE_ANY)
            .setPeriodic(intervalMs)
            .setPersisted(true)
            .build()
    }

    /** By hand: before Android 9 no job equals another. */
    @Suppress("DEPRECATION") // What replaces networkType came with Android 9, too.
    private fun isSame(
        one: JobInfo,
        other: JobInfo,
    ) = one.intervalMillis == other.intervalMillis &&
        one.isRequireDeviceIdle == other.isRequireDeviceIdle &&
        one.isRequireCharging == other.isRequireCharging &&
        one.isRequireBatteryNotLow == other.isRequireBatteryNotLow &&
        one.networkType == other.networkType

    private fun scheduler(context: Context) = checkNotNull(context.getSystemService(JobScheduler::class.java))
}
