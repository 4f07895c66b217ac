package org.cooperllm.demo

import android.app.AlertDialog
import android.app.job.JobParameters
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ListView
import android.widget.Switch
import android.widget.TextView
import kotlinx.coroutines.runBlocking
import org.cooperllm.android.TrainingJobService
import org.cooperllm.android.TrainingSchedule
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadow.api.Shadow
import org.robolectric.shadows.ShadowAlertDialog
import java.io.File

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestDemo::class, qualifiers = "w360dp-h800dp-port-notnight-mdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
internal class MainActivityTest {
    private val app = RuntimeEnvironment.getApplication() as TestDemo
    private val learner get() = app.learner
    private val listener = Listener().also { TestDemo.server = it.address }
    private var controller = Robolectric.buildActivity(MainActivity::class.java).setup()

    @After
    fun leaveNothingBehind() {
        controller.pause().stop().destroy()
        runBlocking { learner.forget() }
        listener.close()
    }

    private fun <T : View> part(id: Int): T =
        controller
            .get()
            .window.decorView
            .find(id)

    private fun tap(id: Int) {
        part<View>(id).performClick()
        settle()
    }

    private fun write(text: String) {
        part<EditText>(R.id.draft).setText(text)
        tap(R.id.add)
        learner.notebook.wait { book -> book.notes.any { it.text == text } }
        settle()
    }

    /** The row of the newest note. */
    private fun row(): View = part<ListView>(R.id.notes).getChildAt(1)

    private fun chips(): FlowLayout = row().find(R.id.places)

    private fun consent(isGiven: Boolean) {
        tap(R.id.consent)
        learner.notebook.wait { it.isTakingPart == isGiven }
        until { TrainingSchedule.isScheduled(app) == isGiven }
    }

    @Test
    fun `a label is corrected by a tap and becomes an example`() {
        write("need bread")
        assertEquals("Where does it belong?", row().find<TextView>(R.id.place).text.toString())
        row().performClick()
        settle()
        val lists = (0 until chips().childCount).map { chips().getChildAt(it) as Button }.first { it.text == "Lists" }
        lists.performClick()
        val note =
            learner.notebook
                .wait { book -> book.notes.single().label != null }
                .notes
                .single()
        settle()
        assertEquals("lists_notes", note.label)
        assertEquals(
            "need bread",
            learner.notebook.value.examples
                .single()
                .text,
        )
        assertEquals("Lists", row().find<TextView>(R.id.place).text.toString())
        assertEquals("need bread. In Lists, checked by you.", row().contentDescription.toString())
        assertEquals(View.GONE, row().find<View>(R.id.places).visibility)
    }

    @Test
    fun `a note is deleted from its places`() {
        write("need bread")
        row().performClick()
        settle()
        chips().getChildAt(chips().childCount - 1).performClick()
        learner.notebook.wait { it.notes.isEmpty() }
        settle()
        assertEquals(View.VISIBLE, part<View>(R.id.empty).visibility)
    }

    @Test
    fun `rotation keeps the page, the open note and what is being written`() {
        write("need bread")
        row().performClick()
        part<EditText>(R.id.draft).setText("half a thou")
        RuntimeEnvironment.setQualifiers("+land")
        controller.configurationChange(app.resources.configuration)
        controller.visible()
        settle()
        assertEquals("half a thou", part<EditText>(R.id.draft).text.toString())
        assertTrue("the open note", chips().childCount > 1)
        tap(R.id.tab_sent)
        controller.recreate()
        assertEquals(View.VISIBLE, part<View>(R.id.page_sent).visibility)
        assertEquals(View.GONE, part<View>(R.id.page_notes).visibility)
        assertTrue(part<View>(R.id.tab_sent).isSelected)
    }

    @Test
    fun `rotation neither gives nor withdraws consent, and keeps the question`() {
        tap(R.id.tab_learning)
        consent(isGiven = true)
        tap(R.id.tab_sent)
        tap(R.id.forget)
        controller.recreate()
        settle()
        assertTrue(part<Switch>(R.id.consent).isChecked)
        assertTrue(learner.notebook.value.isTakingPart)
        assertTrue(ShadowAlertDialog.getLatestDialog().isShowing)
    }

    @Test
    fun `without consent not one byte leaves, whatever the user does`() {
        for (i in 1..LearningScreen.ENOUGH_NOTES) {
            write("note $i")
            runBlocking { learner.check(i.toLong(), "media") }
        }
        listOf(R.id.tab_learning, R.id.tab_sent, R.id.tab_notes).forEach(::tap)
        assertFalse(part<Switch>(R.id.consent).isChecked)
        learner.practise()
        learner.round.wait { it.notice != null }
        assertTrue(runBlocking { learner.work.runOnce() }.isFinished)
        assertFalse(TrainingSchedule.isScheduled(app))
        assertEquals(0, listener.connections)
        // The same taps with consent: somebody knocks, so this test would have heard it.
        consent(isGiven = true)
        assertTrue(TrainingSchedule.isScheduled(app))
        app.allowPractising()
        learner.practise()
        listener.awaitBytes()
        learner.rest()
    }

    @Test
    fun `consent that is withdrawn cancels the job, and one that starts all the same sends nothing`() {
        tap(R.id.tab_learning)
        consent(isGiven = true)
        assertTrue(TrainingSchedule.isScheduled(app))
        consent(isGiven = false)
        assertFalse(TrainingSchedule.isScheduled(app))
        app.allowPractising()
        app.holdScreenOff()
        val service = Robolectric.buildService(TrainingJobService::class.java).create().get()
        service.onStartJob(Shadow.newInstanceOf(JobParameters::class.java))
        app.awaitEnd()
        assertTrue(shadowOf(service).isJobFinished)
        assertEquals(0, listener.connections)
        service.onDestroy()
    }

    @Test
    fun `forget me asks first, then deletes everything`() {
        write("need bread")
        consent(isGiven = true)
        tap(R.id.tab_sent)
        tap(R.id.forget)
        val question = ShadowAlertDialog.getLatestDialog() as AlertDialog
        question.getButton(AlertDialog.BUTTON_NEGATIVE).performClick()
        settle()
        assertEquals(1, learner.notebook.value.notes.size)
        tap(R.id.forget)
        (ShadowAlertDialog.getLatestDialog() as AlertDialog).getButton(AlertDialog.BUTTON_POSITIVE).performClick()
        settle()
        learner.notebook.wait { it.notes.isEmpty() && !it.isTakingPart }
        learner.round.wait { it.hasModel == false }
        assertFalse(TrainingSchedule.isScheduled(app))
        assertEquals(
            emptyList<String>(),
            app.filesDir
                .walk()
                .filter { it.isFile && it.name != "lock" }
                .map(File::getName)
                .toList(),
        )
    }

    @Test
    fun `pages are told as tabs, and every picture that can be tapped has a name`() {
        tap(R.id.tab_learning)
        assertTrue(part<View>(R.id.tab_learning).isSelected)
        assertEquals("Add note", part<View>(R.id.add).contentDescription.toString())
        assertEquals(View.ACCESSIBILITY_LIVE_REGION_POLITE, part<View>(R.id.status).accessibilityLiveRegion)
        assertEquals("Switched off. Nothing is sent.", part<TextView>(R.id.status).text.toString())
        assertNull(listener.failure)
    }
}
