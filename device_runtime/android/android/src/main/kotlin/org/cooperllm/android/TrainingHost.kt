package org.cooperllm.android

import kotlinx.coroutines.flow.Flow
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Outcome

/**
 * What an app's Application class implements, so that a job finds the device also in a process that the system started
 * for it, after a reboot for instance.
 *
 *     class MyApp : Application(), TrainingHost {
 *         private val device by lazy { FederatedDevice(…, keys = KeystoreKeys()) }
 *
 *         override fun trainingWork() = device.asTrainingWork()
 *     }
 */
public interface TrainingHost {
    /** The conditions under which a job works. */
    public val requiredConditions: Set<Condition> get() = Condition.DEFAULT

    /** The work, once in every job, on the job's own thread. What it throws ends the job with [TrainingEnd.Failed]. */
    public fun trainingWork(): TrainingWork

    /**
     * A job has ended, and why; on the job's own thread. Not called where the system takes the phone back or the process
     * dies: a later job goes on.
     */
    public fun onTrainingEnd(end: TrainingEnd) {}
}

/**
 * What a job does, turn by turn. [asTrainingWork] makes one of a [FederatedDevice].
 */
public interface TrainingWork {
    /** What happens, as it happens. */
    public val progress: Flow<Event>

    /**
     * One turn. Never blocks the thread it is called on; when its coroutine is cancelled it ends within a second or so,
     * nothing that was finished is lost, and another call goes on there.
     */
    public suspend fun runOnce(): Outcome
}

/** This device's turns as a job's work. */
public fun FederatedDevice.asTrainingWork(): TrainingWork {
    val device = this
    return object : TrainingWork {
        override val progress = device.progress

        override suspend fun runOnce() = device.runOnce()
    }
}

/** Why a job ended. Every one but [Finished] goes on in a later job. */
public sealed class TrainingEnd {
    /** The cloud's job is over, and nothing is scheduled any more: schedule again to take part in another. */
    public data object Finished : TrainingEnd()

    /** The cloud asked to come back after [waitMs] milliseconds; no job works before. */
    public data class Waiting(
        public val waitMs: Double,
    ) : TrainingEnd()

    /** These conditions did not hold, or no longer. */
    public data class ConditionsMissing(
        public val missing: Set<Condition>,
    ) : TrainingEnd()

    /** The job's time was up. */
    public data object TimeUp : TrainingEnd()

    /** The stop button, or the app itself. */
    public data object Stopped : TrainingEnd()

    /** What [error] says: see its class for what to do. */
    public data class Failed(
        public val error: Exception,
    ) : TrainingEnd()
}
