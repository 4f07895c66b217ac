package org.cooperllm.demo

import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ListView
import android.widget.ScrollView
import android.widget.Switch
import android.widget.TextView
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit

/**
 * The app in a real job of a real service, with a real program: what its screens show comes from there.
 *
 * Started by tests/integration/test_demo_app.py, which has the service; without one there is nothing to do here.
 */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestDemo::class, qualifiers = "w360dp-h800dp-port-notnight-hdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
internal class RealSessionTest {
    private val app get() = RuntimeEnvironment.getApplication() as TestDemo
    private val learner get() = app.learner
    private val pictures =
        Pictures(
            System
                .getProperty("cooperllm.screens")
                .orEmpty()
                .ifEmpty { null }
                ?.let(::File),
        )
    private lateinit var controller: ActivityController<MainActivity>

    @Test
    fun theScreensShowWhatReallyHappens() {
        val server = System.getProperty("cooperllm.server").orEmpty()
        assumeTrue("no service was given", server.isNotEmpty())
        TestDemo.server = server
        app.allowPractising()
        controller = Robolectric.buildActivity(MainActivity::class.java).setup()
        try {
            learner.round.wait { it.hasModel == false }
            pictures.take(controller.get(), "notes_empty_light")
            writeAndCheckAll(File(System.getProperty("cooperllm.notes").orEmpty()))
            takePart()
            practise()
            lookBack()
            correctOne()
            forget()
        } finally {
            controller.pause().stop().destroy()
            pictures.write()
        }
    }

    /** Before there is a sorter on the phone, the user says where each note belongs; the first in the app itself. */
    private fun writeAndCheckAll(file: File) {
        val given = file.readLines().drop(1).map { it.substringBefore('\t') to it.substringAfter('\t') }
        val (text, _) = given.first()
        part<EditText>(R.id.draft).setText(text)
        part<View>(R.id.add).performClick()
        learner.notebook.wait { it.notes.size == 1 }
        runBlocking {
            given.drop(1).forEachIndexed { i, (next, _) -> learner.write(next, i.toLong()) }
            learner.notebook.value.notes
                .zip(given.reversed())
                .forEach { (note, said) -> learner.check(note.id, said.second) }
        }
        assertEquals(given.size, learner.notebook.value.checked.size)
    }

    private fun takePart() {
        turnTo(R.id.tab_learning)
        pictures.take(controller.get(), "learning_off_light")
        part<Switch>(R.id.consent).performClick()
        learner.notebook.wait { it.isTakingPart }
        settle()
    }

    private fun practise() {
        part<Button>(R.id.practise).performClick()
        if (pictures.isKept) {
            takeLive("learning_live_light")
            change("+night")
            takeLive("learning_live_dark")
            change("+notnight")
        }
        learner.round.wait { !it.isPractising && it.notice != null }
        assertEquals(Notice.Finished, learner.round.value.notice)
    }

    /**
     * A picture in the middle of a task: the screen says how many of its tries are done. The thread that measures waits
     * for it, since a task takes less time than a picture.
     */
    private fun takeLive(name: String) {
        val reached = CountDownLatch(1)
        val taken = CountDownLatch(1)
        app.scope.launch(Dispatchers.Unconfined) {
            learner.round.first { it.isAtWork && it.live.directionsDone in 1 until it.live.directionsAll }
            reached.countDown()
            taken.await()
        }
        assertTrue("no task came", reached.await(1, TimeUnit.MINUTES))
        settle()
        val live = learner.round.value.live
        assertEquals("${live.directionsDone} of ${live.directionsAll}", part<TextView>(R.id.tries).text.toString())
        pictures.take(controller.get(), name)
        taken.countDown()
    }

    private fun lookBack() {
        val chart = checkNotNull(LearningScreen.of(learner.notebook.value, learner.round.value).chart)
        val sent = SentScreen(learner.sent.value)
        val left = "messages=${sent.messages.size} numbers=${sent.numbers} size_bytes=${sent.sizeBytes}"
        println("shown: notes=${chart.all} first=${chart.first} now=${chart.now} $left")
        assertTrue(chart.shares.size > 2)
        settle()
        assertTrue(part<TextView>(R.id.chart_text).text.contains(chart.now.toString()))
        assertEquals(learner.sent.value.size, part<ListView>(R.id.page_sent).adapter.count - 1)
        for ((look, qualifiers, scale) in LOOKS) {
            RuntimeEnvironment.setFontScale(scale)
            change(qualifiers)
            turnTo(R.id.tab_learning)
            // The last look's place is kept.
            part<ScrollView>(R.id.page_learning).scrollTo(0, 0)
            pictures.take(controller.get(), "learning_$look")
            part<ScrollView>(R.id.page_learning).let { it.scrollTo(0, it.getChildAt(0).height) }
            pictures.take(controller.get(), "chart_$look")
            turnTo(R.id.tab_sent)
            pictures.take(controller.get(), "sent_$look")
            turnTo(R.id.tab_notes)
            pictures.take(controller.get(), "notes_$look")
        }
        RuntimeEnvironment.setFontScale(1f)
        change("+port-notnight")
    }

    /** A new note is sorted on the phone; a tap opens it, another moves it. */
    private fun correctOne() {
        val written = learner.notebook.value.notes.size
        part<EditText>(R.id.draft).setText("is it going to pour on saturday")
        part<View>(R.id.add).performClick()
        val note =
            learner.notebook
                .wait { it.notes.size > written && it.notes.first().now != null }
                .notes
                .first()
        settle()
        // The row is bound a moment after the notebook has the note.
        until {
            settle()
            newest().find<TextView>(R.id.text).text == note.text
        }
        newest().performClick()
        pictures.take(controller.get(), "notes_open_light")
        RuntimeEnvironment.setFontScale(LARGE)
        change("+port-notnight")
        pictures.take(controller.get(), "notes_open_large")
        RuntimeEnvironment.setFontScale(1f)
        change("+port-notnight")
        newest().find<FlowLayout>(R.id.places).getChildAt(1).performClick()
        val corrected =
            learner.notebook
                .wait { it.notes.first().label != null }
                .notes
                .first()
        assertEquals(note.id to Places.NAMES.keys.toList()[1], corrected.id to corrected.label)
    }

    /** The newest note's row; above it is the title. */
    private fun newest(): View = part<ListView>(R.id.notes).getChildAt(1)

    private fun forget() {
        runBlocking { learner.forget() }
        assertEquals(Notebook(), learner.notebook.value)
        settle()
        assertEquals(1, part<ListView>(R.id.page_sent).adapter.count)
    }

    private fun turnTo(tab: Int) {
        part<View>(tab).performClick()
        settle()
    }

    private fun change(qualifiers: String) {
        RuntimeEnvironment.setQualifiers(qualifiers)
        controller.configurationChange(app.resources.configuration)
        controller.visible()
        settle()
    }

    private fun <T : View> part(id: Int): T =
        controller
            .get()
            .window.decorView
            .find(id)

    private companion object {
        const val LARGE = 1.6f
        val LOOKS =
            listOf(
                Triple("light", "+port-notnight", 1f),
                Triple("dark", "+port-night", 1f),
                Triple("large", "+port-notnight", LARGE),
            )
    }
}
