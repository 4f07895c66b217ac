package org.cooperllm.demo

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.test.TestScope
import kotlinx.coroutines.test.runCurrent
import kotlinx.coroutines.test.runTest
import org.cooperllm.android.Condition
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Live
import org.cooperllm.runtime.session.Outcome
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** The app's decisions, with a device and a schedule that a test scripts. */
@OptIn(ExperimentalCoroutinesApi::class)
internal class LearnerTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val calls = mutableListOf<String>()
    private val missing = mutableSetOf<Condition>()
    private var turns = mutableListOf<suspend Scripted.() -> Outcome>()
    private var labels: ((String) -> String)? = null
    private val schedule =
        object : Schedule {
            override fun begin() {
                calls += "schedule"
            }

            override fun end() {
                calls += "cancel"
            }
        }

    private inner class Scripted(
        val isOnline: Boolean,
    ) : Participant {
        override val progress = MutableSharedFlow<Event>(extraBufferCapacity = 16)

        init {
            calls += if (isOnline) "open online" else "open offline"
        }

        fun tell(
            name: String,
            vararg fields: Pair<String, Any>,
        ) = progress.tryEmit(Event(name, 0.0, mapOf(*fields), Live(phase = "compute")))

        override suspend fun runOnce(): Outcome {
            assertTrue("a turn without an address", isOnline)
            return turns.removeAt(0).invoke(this)
        }

        override suspend fun predict(texts: List<String>) = texts.map(labels ?: throw BundleError("no bundle"))

        override suspend fun refreshExamples() {
            calls += "refresh"
        }

        override fun disclosures() = listOf(Disclosure(1.0, 0, "directions", 64, 64, 500))

        override suspend fun forget() {
            calls += "forget"
        }

        override fun close() {
            calls += "close"
        }
    }

    private fun TestScope.learner() =
        Learner(NotebookFile(File(temporary.root, "notebook.json")), schedule, backgroundScope, { missing }, ::Scripted)

    @Test
    fun `without consent the device has no address and a job has nothing to do`() =
        runTest {
            val learner = learner()
            learner.begin()
            assertEquals(Outcome(isFinished = true), learner.work.runOnce())
            learner.practise()
            runCurrent()
            assertEquals(listOf("open offline"), calls)
            assertEquals(Notice.Finished, learner.round.value.notice)
        }

    @Test
    fun `consent opens the device anew, with an address, and schedules the job`() =
        runTest {
            val learner = learner()
            learner.begin()
            learner.takePart(true)
            turns += { Outcome(isFinished = true) }
            learner.work.runOnce()
            assertEquals(listOf("open offline", "schedule", "close", "open online"), calls)
            calls.clear()
            learner().begin()
            assertEquals("after the app's next start", listOf("schedule", "open online"), calls)
        }

    @Test
    fun `consent withdrawn in the middle of a turn ends it, and everything after`() =
        runTest {
            val learner = learner()
            learner.takePart(true)
            val begun = CompletableDeferred<Unit>()
            turns += {
                begun.complete(Unit)
                CompletableDeferred<Outcome>().await()
            }
            learner.practise()
            begun.await()
            calls.clear()
            learner.takePart(false)
            runCurrent()
            assertEquals(listOf("cancel", "close"), calls)
            assertFalse(learner.round.value.isPractising)
            assertEquals(Outcome(isFinished = true), learner.work.runOnce())
        }

    @Test
    fun `a new version sorts the notes anew and is scored`() =
        runTest {
            val learner = learner()
            learner.write("need bread", 1)
            learner.check(1, "lists_notes")
            assertEquals(false, learner.round.value.hasModel)
            learner.takePart(true)
            for ((version, said) in listOf(0L to "media", 1L to "lists_notes")) {
                turns += {
                    labels = { said }
                    tell("version", "version" to version)
                    Outcome(isFinished = version == 1L)
                }
            }
            turns.add(1) { Outcome() } // without a version nothing is sorted
            learner.practise()
            runCurrent()
            val note =
                learner.notebook.value.notes
                    .single()
            assertEquals("media" to "lists_notes", note.first to note.now)
            assertEquals(listOf(Score(0, 0, 1), Score(1, 1, 1)), learner.notebook.value.scores)
            assertEquals(Notice.Finished, learner.round.value.notice)
            assertEquals(1, learner.sent.value.size)
            assertEquals("asked for once, as nothing changed between", 1, calls.count { it == "refresh" })
        }

    @Test
    fun `what stands against practising is said`() =
        runTest {
            val learner = learner()
            learner.takePart(true)
            missing += Condition.UNMETERED
            learner.practise()
            runCurrent()
            assertEquals(Notice.NotNow(setOf(Condition.UNMETERED)), learner.round.value.notice)
            missing.clear()
            turns += { throw ServerUnreachable("nobody answers") }
            learner.practise()
            runCurrent()
            assertEquals(Notice.NoAnswer, learner.round.value.notice)
            assertFalse(learner.round.value.isPractising)
        }

    @Test
    fun `a note that was written is sorted at once, others are left alone`() =
        runTest {
            val learner = learner()
            labels = { "media" }
            learner.write("play it again", 1)
            labels = { "weather" }
            learner.write("is it cold", 2)
            assertEquals(
                listOf("weather", "media"),
                learner.notebook.value.notes
                    .map { it.now },
            )
        }

    @Test
    fun `forgetting closes, deletes and begins anew without an address`() =
        runTest {
            val learner = learner()
            learner.write("need bread", 1)
            learner.takePart(true)
            turns += { Outcome() }
            learner.work.runOnce()
            calls.clear()
            learner.forget()
            assertEquals(listOf("cancel", "close", "open offline", "forget", "close"), calls)
            assertEquals(Notebook(), learner.notebook.value)
            assertEquals(emptyList<Disclosure>(), learner.sent.value)
            assertTrue(
                temporary.root
                    .list()
                    .orEmpty()
                    .isEmpty(),
            )
        }
}
