package org.cooperllm.android

import android.app.Application
import android.app.NotificationManager
import android.app.job.JobParameters
import android.content.Intent
import android.os.PowerManager
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.yield
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.session.Outcome
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadow.api.Shadow
import org.robolectric.shadows.ShadowSystemClock
import java.time.Duration
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
internal class TrainingJobServiceTest {
    private val context = RuntimeEnvironment.getApplication()
    private val app get() = context as TestApp
    private val phone = TestPhone(context)
    private val working = CountDownLatch(1)
    private val rested = CountDownLatch(1)

    private val endless: suspend ScriptedWork.() -> Outcome = {
        phase("compute")
        yield() // Whoever shows it runs on the same thread.
        working.countDown()
        try {
            awaitCancellation()
        } finally {
            rested.countDown()
        }
    }

    private val services = mutableListOf<TrainingJobService>()

    private fun service(): TrainingJobService =
        Robolectric
            .buildService(TrainingJobService::class.java)
            .create()
            .get()
            .also { services += it }

    @After
    fun leaveNothingBehind() = services.forEach { it.onDestroy() }

    private fun start(service: TrainingJobService) = service.onStartJob(Shadow.newInstanceOf(JobParameters::class.java))

    private fun CountDownLatch.reached() = assertTrue(await(30, TimeUnit.SECONDS))

    @Test
    fun aJobRunsUntilTheCloudsJobIsOver() {
        TrainingSchedule.schedule(context)
        app.open = { ScriptedWork({ Outcome() }, { FINISHED }) }
        val service = service()
        assertTrue(start(service))
        assertEquals(TrainingEnd.Finished, app.end())
        assertTrue(shadowOf(service).isJobFinished)
        assertFalse(shadowOf(service).isRescheduleNeeded)
        assertFalse(TrainingSchedule.isScheduled(context))
        assertEquals(null, TrainingJobService.current)
    }

    @Test
    fun aJobWithoutItsConditionsIsRunAgainLater() {
        TrainingSchedule.schedule(context)
        phone.battery(percent = 12)
        val service = service()
        assertTrue(start(service))
        assertEquals(TrainingEnd.ConditionsMissing(setOf(Condition.BATTERY)), app.end())
        assertTrue(shadowOf(service).isRescheduleNeeded)
        assertTrue(TrainingSchedule.isScheduled(context))
    }

    @Test
    fun aPhoneThatIsTakenUpEndsTheJob() {
        app.open = { ScriptedWork(endless) }
        val service = service()
        start(service)
        working.reached()
        phone.screen(isOn = true)
        ShadowSystemClock.advanceBy(Duration.ofSeconds(1)) // The phone is asked once a second.
        assertEquals(TrainingEnd.ConditionsMissing(setOf(Condition.IDLE)), app.end())
        assertEquals(0, rested.count)
        assertTrue(shadowOf(service).isRescheduleNeeded)
    }

    @Test
    fun whicheverConditionGoesAwayEndsTheJob() {
        val losses =
            mapOf<Condition, () -> Unit>(
                Condition.COOL to { phone.thermal(PowerManager.THERMAL_STATUS_MODERATE) },
                Condition.BATTERY to { phone.battery(percent = 29) },
                Condition.IDLE to { phone.screen(isOn = true) },
                Condition.UNMETERED to { phone.network(isMetered = true) },
            )
        assertEquals(Condition.DEFAULT, losses.keys)
        for ((condition, lose) in losses) {
            TestPhone(context) // everything holds again
            val begun = CountDownLatch(1)
            app.open = {
                ScriptedWork({
                    begun.countDown()
                    awaitCancellation()
                })
            }
            val service = service()
            start(service)
            begun.reached()
            lose()
            ShadowSystemClock.advanceBy(Duration.ofSeconds(1))
            assertEquals(TrainingEnd.ConditionsMissing(setOf(condition)), app.end())
            assertTrue(shadowOf(service).isRescheduleNeeded)
        }
    }

    @Test
    fun theSystemStopsAJobAndTheNextGoesOnWithTheSameWork() {
        val work = ScriptedWork(endless, { FINISHED })
        app.open = { work }
        val service = service()
        start(service)
        working.reached()
        assertTrue(service.onStopJob(Shadow.newInstanceOf(JobParameters::class.java)))
        rested.reached()
        assertFalse(shadowOf(service).isJobFinished)
        start(service)
        assertEquals(TrainingEnd.Finished, app.end())
        assertEquals(2, work.begun)
    }

    @Test
    fun oneJobAtATimeWorks() {
        val order = mutableListOf<String>()
        val first =
            ScriptedWork({
                working.countDown()
                try {
                    awaitCancellation()
                } finally {
                    order += "first rests"
                }
            })
        val old = service()
        app.open = { first }
        start(old)
        working.reached()
        // Another instance, as after a restart of the service; the old one is told to go at the same moment.
        app.open = { ScriptedWork({ FINISHED.also { order += "second works" } }) }
        start(service())
        old.onDestroy()
        assertEquals(TrainingEnd.Finished, app.end())
        assertEquals(listOf("first rests", "second works"), order)
    }

    @Test
    fun afterARebootTheApplicationIsAllThatAJobNeeds() {
        app.open = { ScriptedWork({ FINISHED }) }
        // No activity ran and nothing was scheduled in this process: the system starts the service itself.
        assertTrue(start(service()))
        assertEquals(TrainingEnd.Finished, app.end())
    }

    @Test
    fun theCloudsWaitIsKept() {
        TrainingSchedule.schedule(context)
        app.open = { ScriptedWork({ Outcome(waitMs = 3_600_000.0) }) }
        val service = service()
        start(service)
        assertEquals(TrainingEnd.Waiting(3_600_000.0), app.end())
        assertFalse(shadowOf(service).isRescheduleNeeded)
        assertFalse("a job before its time", start(service))
        assertTrue(TrainingSchedule.isScheduled(context))
    }

    @Test
    fun onlyAnErrorThatLastsHoldsTheNextJob() {
        app.open = { ScriptedWork({ throw ServerUnreachable("nobody answers") }) }
        start(service())
        app.end()
        assertFalse(TrainingHold(context).holds)
        app.open = { throw OptionError("threads must be at least 1") }
        start(service())
        app.end()
        assertTrue(TrainingHold(context).holds)
    }

    @Test
    fun theNotificationIsThereWhileTheJobWorks() {
        val shown = shadowOf(context.service(NotificationManager::class.java))
        app.open = { ScriptedWork(endless) }
        val service = service()
        start(service)
        working.reached()
        assertEquals(1, shown.size())
        StopReceiver().onReceive(context, Intent())
        assertEquals(TrainingEnd.Stopped, app.end())
        assertEquals(0, shown.size())
        assertTrue(shadowOf(service).isJobFinished)
        assertFalse(shadowOf(service).isRescheduleNeeded)
        assertFalse("back at once after the stop button", start(service))
    }

    @Test
    @Config(application = Application::class)
    fun anAppWithoutAHostHasNothingToDo() = assertFalse(start(service()))
}
