package org.cooperllm.demo

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException

internal class NotebookFileTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val file by lazy { File(temporary.root, "notebook.json") }

    private val book =
        Notebook(isTakingPart = true)
            .write("“wake me\tat seven”\n— ok? \u0000 ☕", 1_700_000_000_000)
            .write("need bread", 1_700_000_000_001)
            .sorted(mapOf(1L to "alarm_timer"))
            .check(1, "calendar_reminders")
            .scored(7)

    @Test
    fun `another process reads what was written`() {
        NotebookFile(file).change { book }
        assertEquals(book, NotebookFile(file).notebook.value)
        assertEquals("nothing else lies beside it", listOf(file.name), temporary.root.list()?.toList())
    }

    @Test
    fun `a process that died while it wrote left the old notebook`() {
        NotebookFile(file).change { book }
        val whole = file.readBytes()
        for (size in listOf(0, 1, whole.size / 2, whole.size - 1)) {
            File(file.path + ".tmp").writeBytes(whole.copyOf(size))
            val later = NotebookFile(file)
            assertEquals(book, later.notebook.value)
            assertEquals(3, later.change { it.write("lock the doors", 2) }.notes.size)
            later.change { book }
        }
    }

    @Test
    fun `a damaged file is put aside and the app begins anew`() {
        val whole = NotebookJson.write(book)
        val damaged = listOf("", "{", whole.dropLast(1), whole.replace("\"notes\"", "\"other\""), "[1]", whole.replace(":1,", ":9,"))
        for (text in damaged) {
            file.writeText(text)
            assertEquals(text, Notebook(), NotebookFile(file).notebook.value)
            assertEquals(text, File(file.path + ".damaged").readText())
        }
    }

    @Test
    fun `what cannot be written is not shown either`() {
        val folder = temporary.newFolder("gone")
        val notes = NotebookFile(File(folder, "notebook.json"))
        notes.change { book }
        folder.deleteRecursively()
        folder.writeText("a file in the folder's place")
        assertThrows(IOException::class.java) { notes.change { Notebook() } }
        assertEquals(book, notes.notebook.value)
    }

    @Test
    fun `forgetting leaves no file`() {
        val notes = NotebookFile(file)
        notes.change { book }
        File(file.path + ".damaged").writeText("older")
        notes.forget()
        assertEquals(Notebook(), notes.notebook.value)
        assertTrue(
            temporary.root
                .list()
                .orEmpty()
                .isEmpty(),
        )
    }
}
