package org.cooperllm.demo

import org.cooperllm.runtime.session.Example
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Test

internal class NotebookTest {
    private val three =
        Notebook()
            .write("need bread", 1)
            .write(" start the film over\n", 2)
            .write("speak to daddy", 3)

    @Test
    fun `the newest note comes first, under an id of its own`() {
        assertEquals(listOf(3L to "speak to daddy", 2L to "start the film over", 1L to "need bread"), ids(three))
        assertEquals(
            4L,
            three
                .delete(1)
                .write("i'm home", 4)
                .notes
                .first()
                .id,
        )
    }

    @Test
    fun `blank text is no note`() = assertSame(three, three.write(" \n", 9))

    @Test
    fun `only what the user said becomes an example`() {
        val sorted = three.sorted(mapOf(1L to "media", 2L to "media", 3L to "calls_messages"))
        assertEquals(emptyList<Example>(), sorted.examples)
        val corrected = sorted.check(1, "lists_notes")
        assertEquals(listOf(Example("need bread", "lists_notes")), corrected.examples)
        assertEquals("lists_notes", corrected.notes.last().place)
        assertEquals("media", corrected.notes[1].place)
        assertEquals(emptyList<Example>(), corrected.delete(1).examples)
    }

    @Test
    fun `what the sorter said the first time stays, what it says now changes`() {
        val twice = three.sorted(mapOf(1L to "media")).sorted(mapOf(1L to "lists_notes"))
        val note = twice.notes.last()
        assertEquals("media" to "lists_notes", note.first to note.now)
        assertNull(twice.notes.first().now)
    }

    @Test
    fun `a version's score counts checked notes that the sorter has seen`() {
        val labels = mapOf(1L to "lists_notes", 2L to "weather", 3L to "calls_messages")
        val book = three.sorted(labels).check(1, "lists_notes").check(2, "media")
        assertEquals(listOf(Score(0, 1, 2)), book.scored(0).scores)
        assertEquals(
            "a version has one score",
            listOf(Score(0, 2, 3)),
            book
                .scored(0)
                .check(3, "calls_messages")
                .scored(0)
                .scores,
        )
        assertEquals("nothing checked, nothing to count", emptyList<Score>(), three.sorted(labels).scored(0).scores)
    }

    @Test
    fun `the oldest scores go`() {
        var book = three.check(1, "media").sorted(mapOf(1L to "media"))
        for (version in 0L..Notebook.MOST_SCORES) book = book.scored(version)
        assertEquals(Notebook.MOST_SCORES, book.scores.size)
        assertEquals(1L, book.scores.first().version)
    }

    private fun ids(book: Notebook) = book.notes.map { it.id to it.text }
}
