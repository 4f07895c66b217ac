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

/** A process that is killed at any moment leaves one round or the next, and nothing half. */
class StoreKillTest {
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

    private fun killWriterAfter(
        folder: File,
        delayMs: Long,
    ) {
        val java = File(System.getProperty("java.home"), "bin/java").path
        val classPath = System.getProperty("surefire.test.class.path") ?: System.getProperty("java.class.path")
        val writer = "org.cooperllm.runtime.store.StoreWriterKt"
        val process = ProcessBuilder(java, "-XX:TieredStopAtLevel=1", "-cp", classPath, writer, folder.path)
        val running = process.redirectError(ProcessBuilder.Redirect.INHERIT).start()
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
