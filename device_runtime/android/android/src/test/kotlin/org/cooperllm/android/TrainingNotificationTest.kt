package org.cooperllm.android

import android.app.Notification
import android.app.NotificationManager
import org.cooperllm.runtime.session.Event
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowLooper

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
internal class TrainingNotificationTest {
    private val context = RuntimeEnvironment.getApplication()
    private val manager = context.service(NotificationManager::class.java)
    private val notification = TrainingNotification(context)
    private val shown: Notification? get() = shadowOf(manager).getNotification(TrainingNotification.ID)

    private fun show(phase: String) = notification.show(Event("phase", 0.0, mapOf("phase" to phase)))

    @Test
    fun itSaysWhatThePhoneDoes() {
        show("compute")
        val extras = checkNotNull(shown).extras
        assertEquals("Improving the model", extras.getCharSequence(Notification.EXTRA_TITLE).toString())
        assertEquals("Learning from your examples", extras.getCharSequence(Notification.EXTRA_TEXT).toString())
        assertEquals(6, extras.getInt(Notification.EXTRA_PROGRESS))
        assertEquals(7, extras.getInt(Notification.EXTRA_PROGRESS_MAX))
        assertTrue(checkNotNull(shown).flags and Notification.FLAG_ONGOING_EVENT != 0)
        assertTrue("left behind by a process that died", checkNotNull(shown).timeoutAfter in 1..600_000)
    }

    @Test
    fun itIsQuiet() {
        show("fetch")
        val channel = manager.getNotificationChannel(TrainingNotification.CHANNEL)
        assertEquals(NotificationManager.IMPORTANCE_LOW, channel.importance)
        assertEquals("Improving the model", channel.name.toString())
        assertNotNull(channel.description)
    }

    @Test
    fun everyPhaseHasATextOfItsOwn() {
        val texts =
            TrainingNotification.PHASES.map { (phase, _) ->
                show(phase)
                checkNotNull(shown).extras.getCharSequence(Notification.EXTRA_TEXT).toString()
            }
        assertEquals(7, texts.toSet().size)
    }

    @Test
    fun otherEventsShowNothing() {
        notification.show(Event("task", 0.0, mapOf("round" to 3L)))
        show("a phase of a later release")
        assertEquals(null, shown)
    }

    @Test
    fun theStopButtonHoldsTheNextJobsAndTakesTheNotificationAway() {
        show("guides")
        val stop = checkNotNull(shown).actions.single()
        assertEquals("Stop for now", stop.title.toString())
        assertTrue(stop.actionIntent.isImmutable)
        stop.actionIntent.send()
        ShadowLooper.idleMainLooper()
        assertTrue(TrainingHold(context).holds)
        assertEquals(null, shown)
    }
}
