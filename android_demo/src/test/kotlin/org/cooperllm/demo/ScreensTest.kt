package org.cooperllm.demo

import org.cooperllm.android.Condition
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Live
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the pages show, from what is known: state in, state out. */
internal class ScreensTest {
    private val enough =
        (1..LearningScreen.ENOUGH_NOTES).fold(Notebook(isTakingPart = true)) { book, i ->
            book.write("note $i", i.toLong()).check(i.toLong(), "media")
        }

    private fun status(
        book: Notebook,
        round: RoundState = RoundState(),
    ) = LearningScreen.of(book, round).status

    private fun event(
        name: String,
        live: Live,
        vararg fields: Pair<String, Any>,
    ) = Event(name, 0.0, mapOf(*fields), live)

    @Test
    fun `without consent nothing can be started`() {
        val screen = LearningScreen.of(enough.copy(isTakingPart = false), RoundState())
        assertEquals(Status.Off, screen.status)
        assertFalse(screen.canPractise)
    }

    @Test
    fun `with too few checked notes the page says how many more`() {
        val screen = LearningScreen.of(enough.delete(1).delete(2), RoundState())
        assertEquals(Status.NeedsNotes(2), screen.status)
        assertFalse(screen.canPractise)
        assertTrue(LearningScreen.of(enough, RoundState()).canPractise)
        assertEquals(Status.Resting, status(enough))
    }

    @Test
    fun `the page follows a turn's events`() {
        var round = RoundState().practising().turning(true)
        round = round.after(event("phase", Live(phase = "check_in")))
        assertEquals(Status.Working("check_in", null), status(enough, round))
        round = round.after(event("task", Live(phase = "check_in"), "round" to 5L))
        round = round.after(event("progress", Live("compute", 12, 64, 2_000, 91_000_000, 98_000_000)))
        val screen = LearningScreen.of(enough, round)
        assertEquals(Status.Working("compute", 5L), screen.status)
        assertEquals(listOf(12, 64), listOf(screen.triesDone, screen.triesAll))
        assertEquals(listOf(98_000_000L, 91_000_000L, 2_000L), listOf(screen.memoryBytes, screen.receivedBytes, screen.sentBytes))
        round = round.after(event("wait", Live(phase = "check_in"))).turning(false)
        assertEquals(Status.Waiting, status(enough, round))
        assertTrue("it can be stopped while it waits", LearningScreen.of(enough, round).isPractising)
    }

    @Test
    fun `asking for work again while waiting does not flicker`() {
        val waiting = RoundState(isAtWork = true).after(event("wait", Live(phase = "check_in")))
        assertEquals(Status.Waiting, status(enough, waiting.after(event("phase", Live(phase = "check_in")))))
        assertEquals(Status.Working("fetch", null), status(enough, waiting.after(event("phase", Live(phase = "fetch")))))
    }

    @Test
    fun `what ended it is said until it begins again`() {
        val ended = RoundState().practising().ended(Notice.NoAnswer)
        assertEquals(Status.Ended(Notice.NoAnswer), status(enough, ended))
        assertNull(ended.practising().notice)
        assertEquals(Status.Resting, status(enough, RoundState().practising().ended(null)))
    }

    @Test
    fun `of several missing conditions the one is named that the user can change`() {
        assertEquals(Condition.UNMETERED, setOf(Condition.COOL, Condition.UNMETERED).foremost())
        assertEquals(Condition.BATTERY, setOf(Condition.COOL, Condition.BATTERY).foremost())
        assertNull(emptySet<Condition>().foremost())
    }

    @Test
    fun `the chart goes from the first word to the present one, over the same notes`() {
        assertNull("nothing was sorted yet", Chart.of(enough))
        val wrong = enough.sorted(enough.notes.associate { it.id to "travel" }).scored(0)
        val half = wrong.sorted(wrong.notes.associate { it.id to if (it.id <= 6) "media" else "travel" }).scored(1)
        val most = half.sorted(half.notes.associate { it.id to if (it.id <= 9) "media" else "travel" }).scored(2)
        assertEquals(Chart(12, 0, 9, listOf(0.0, 0.5, 0.75)), Chart.of(most))
        assertEquals(Chart(12, 0, 0, listOf(0.0, 0.0)), Chart.of(wrong))
    }

    @Test
    fun `what left is added up`() {
        val screen = SentScreen(listOf(Disclosure(2.0, 1, "directions", 64, 64, 533), Disclosure(1.0, 0, "directions", 0, 0, 292)))
        assertEquals(64 to 825L, screen.numbers to screen.sizeBytes)
    }
}
