package org.cooperllm.android

import android.Manifest.permission
import android.app.Application
import android.app.job.JobInfo
import android.app.job.JobScheduler
import android.content.ComponentName
import android.content.pm.PackageManager
import org.cooperllm.runtime.OptionError
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
internal class TrainingScheduleTest {
    private val context = RuntimeEnvironment.getApplication()
    private val scheduler = context.service(JobScheduler::class.java)
    private val job get() = scheduler.getPendingJob(TrainingSchedule.JOB_ID)

    @Test
    @Suppress("DEPRECATION")
    fun theJobWantsAPhoneThatLiesAround() {
        TrainingSchedule.schedule(context)
        val found = checkNotNull(job)
        assertTrue(found.isRequireDeviceIdle)
        assertTrue(found.isRequireBatteryNotLow)
        assertFalse(found.isRequireCharging)
        assertEquals(JobInfo.NETWORK_TYPE_UNMETERED, found.networkType)
        assertEquals(15 * 60_000L, found.intervalMillis)
        assertEquals(ComponentName(context, TrainingJobService::class.java), found.service)
    }

    @Test
    fun theJobSurvivesAReboot() {
        TrainingSchedule.schedule(context)
        assertTrue(checkNotNull(job).isPersisted)
        // Without it the system refuses to keep the job.
        assertTrue(permission.RECEIVE_BOOT_COMPLETED in permissions())
    }

    @Test
    fun schedulingAgainDoesNotDisturbTheJobThatRuns() {
        TrainingSchedule.schedule(context)
        val first = job
        TrainingSchedule.schedule(context)
        assertSame(first, job)
        TrainingSchedule.schedule(context, intervalMs = 3_600_000)
        assertEquals(3_600_000L, job?.intervalMillis)
    }

    @Test
    fun cancelForgetsJobAndHold() {
        TrainingSchedule.schedule(context)
        TrainingHold(context).begin(TrainingHold.AFTER_STOP_MS)
        assertTrue(TrainingSchedule.isScheduled(context))
        TrainingSchedule.cancel(context)
        assertFalse(TrainingSchedule.isScheduled(context))
        assertFalse(TrainingHold(context).holds)
    }

    @Test
    fun whatCannotWorkIsSaidAtOnce() {
        assertThrows(OptionError::class.java) { TrainingSchedule.schedule(context, intervalMs = 899_999) }
        shadowOf(scheduler).failOnJob(TrainingSchedule.JOB_ID)
        assertThrows(OptionError::class.java) { TrainingSchedule.schedule(context) }
    }

    @Test
    @Config(application = Application::class)
    fun anAppWithoutAHostIsToldSo() {
        val error = assertThrows(OptionError::class.java) { TrainingSchedule.schedule(context) }
        assertTrue("TrainingHost" in checkNotNull(error.message))
    }

    @Test
    fun noPermissionIsAskedForBeyondTheFour() {
        val wanted =
            setOf(
                permission.INTERNET,
                permission.ACCESS_NETWORK_STATE,
                permission.RECEIVE_BOOT_COMPLETED,
                permission.POST_NOTIFICATIONS,
            )
        assertEquals(wanted, permissions())
    }

    @Test
    fun onlyTheSystemStartsTheService() {
        val packages = context.packageManager
        val service = packages.getServiceInfo(ComponentName(context, TrainingJobService::class.java), 0)
        assertEquals(permission.BIND_JOB_SERVICE, service.permission)
        assertFalse(packages.getReceiverInfo(ComponentName(context, StopReceiver::class.java), 0).exported)
    }

    @Test
    fun aHoldEndsAndNeverOutlastsAClockThatJumpsBack() {
        var nowMs = 1_000_000L
        val hold = TrainingHold(context) { nowMs }
        assertFalse(hold.holds)
        hold.begin(500)
        assertTrue(TrainingHold(context) { nowMs + 499 }.holds)
        assertFalse(TrainingHold(context) { nowMs + 500 }.holds)
        nowMs -= 1
        assertFalse(hold.holds)
    }

    private fun permissions(): Set<String> =
        context.packageManager
            .getPackageInfo(context.packageName, PackageManager.GET_PERMISSIONS)
            .requestedPermissions
            .orEmpty()
            .toSet()
}
