package org.cooperllm.runtime.store

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.util.Random
import java.util.concurrent.TimeUnit

/** The store of another process, which is killed at any moment or finds the disk full: nothing is half or lost. */
class StoreProcessTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `a process killed at any moment leaves one round or the next`() {
        val folder = temporary.newFolder()
        val random = Random(1)
        val rounds = mutableListOf(0L)
        while (rounds.size <= KILLS || (rounds.last() == 0L && rounds.size < 30)) {
            killWriterAfter(folder, random.nextInt(MOST_MS).toLong())
            rounds += checkWhole(folder)
        }
        assertEquals(rounds.sorted(), rounds)
        assertTrue("$rounds", rounds.last() > 0)
    }

    /** The shell's limit on a file's size stands for a full disk: both are errors of a write. */
    @Test
    fun `a full disk is one clear error and loses nothing`() {
        val folder = temporary.newFolder()
        val command = java("StoreFillerKt", folder).joinToString(" ") { "'$it'" }
        val process = ProcessBuilder("bash", "-c", "ulimit -f 2; exec $command")
        val running = process.redirectError(ProcessBuilder.Redirect.INHERIT).start()
        val lines = running.inputStream.bufferedReader().readLines()
        assertEquals(0, running.waitFor())
        assertEquals("$lines", 2, lines.size)
        assertTrue("$lines", lines.all { "no space left" in it && "nothing was lost" in it })
        Store(folder).use { store ->
            assertEquals(3L, store.state.adapterVersion)
            assertEquals("", store.state.pendingReport)
            assertArrayEquals(byteArrayOf(3), store.readAdapter())
        }
        assertTrue(folder.walk().none { it.name.endsWith(Durable.TEMPORARY) })
    }

    /** The command of a JVM that runs a program of these tests on a folder. */
    private fun java(
        program: String,
        folder: File,
    ): List<String> {
        val executable = File(System.getProperty("java.home"), "bin/java").path
        val classPath = System.getProperty("surefire.test.class.path") ?: System.getProperty("java.class.path")
        val options = listOf("-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp", classPath)
        return listOf(executable) + options + "org.cooperllm.runtime.store.$program" + folder.path
    }

    private fun killWriterAfter(
        folder: File,
        delayMs: Long,
    ) {
        val running =
            ProcessBuilder(
                java("StoreWriterKt", folder),
            ).redirectError(ProcessBuilder.Redirect.INHERIT).start()
        assertEquals("ready", running.inputStream.bufferedReader().readLine())
        running.waitFor(delayMs, TimeUnit.MILLISECONDS)
        running.destroyForcibly().waitFor()
    }

    private fun checkWhole(folder: File): Long =
        Store(folder).use { store ->
            val state = store.state
            val round = state.pendingRound
            assertTrue(state.adapterVersion in round..round + 1)
            if (state.adapterVersion > 0) {
                assertArrayEquals(StoreRound.adapter(state.adapterVersion), store.readAdapter())
            }
            val expected = if (round == 0L) State() else StoreRound.state(state, round)
            assertEquals(expected.disclosed, state.disclosed)
            assertEquals(expected.pendingReport, state.pendingReport)
            for (n in listOf(round, round + 1)) {
                val kept = store.progress.of("$n")
                assertEquals(kept.indices.map { StoreRound.scalar(n, it) }, kept)
            }
            assertTrue(folder.walk().none { it.name.endsWith(Durable.TEMPORARY) })
            round
        }

    private companion object {
        const val KILLS = 3
        const val MOST_MS = 150
    }
}
