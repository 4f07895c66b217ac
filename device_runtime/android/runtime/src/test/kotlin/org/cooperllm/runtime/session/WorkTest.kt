package org.cooperllm.runtime.session

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.isActive
import kotlinx.coroutines.runBlocking
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.update.SmallProgram
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** What stop and cancel do to the work under way, and that the next work is none the wiser. */
class WorkTest {
    private val core = SmallProgram.core()
    private val work = Work { core }
    private val begun = CompletableDeferred<Unit>()

    @Test
    fun `work that asks between groups ends by itself and keeps what it finished`() =
        runBlocking {
            var kept = 0
            val error =
                stopped {
                    // Whoever was done before it was cancelled has a result, and no error.
                    while (work.goesOn() || currentCoroutineContext().isActive) begun.complete(Unit)
                    core.hidden(BATCHES[0], 3)
                    kept++
                }
            assertTrue(error is Stopped)
            assertEquals(1, kept)
            goesOn()
        }

    @Test
    fun `a direction that takes longer is cut within a segment`() =
        runBlocking {
            val error = stopped { while (true) core.hidden(BATCHES[0], 3).also { begun.complete(Unit) } }
            assertTrue(error is Stopped)
            goesOn()
        }

    @Test
    fun `a call that waits for the network ends at once`() =
        runBlocking {
            val error =
                stopped {
                    begun.complete(Unit)
                    awaitCancellation()
                }
            assertTrue(error is Stopped)
            goesOn()
        }

    @Test
    fun `cancelling the caller ends the computation, too, and is no error of ours`() =
        runBlocking {
            val running =
                async(Dispatchers.Default) {
                    work.stoppable { while (true) core.hidden(BATCHES[0], 3).also { begun.complete(Unit) } }
                }
            begun.await()
            running.cancel()
            val error = runCatching { running.await() }.exceptionOrNull()
            assertTrue(error is CancellationException)
            goesOn()
        }

    @Test
    fun `stopping nothing does nothing, and results and errors come through`() =
        runBlocking {
            work.stop()
            goesOn()
            val error = runCatching { work.stoppable { error("of the work itself") } }.exceptionOrNull()
            assertEquals("of the work itself", error?.message)
        }

    /** What [action] ends with when it is stopped after it has begun. */
    private suspend fun stopped(action: suspend () -> Unit): Throwable? =
        runBlocking(Dispatchers.Default) {
            val running = async { runCatching { work.stoppable(action) }.exceptionOrNull() }
            begun.await()
            work.stop()
            running.await()
        }

    private suspend fun goesOn() {
        assertEquals(7, work.stoppable { core.hidden(BATCHES[0], 3).count.let { 7 } })
        assertTrue(work.goesOn())
        assertFalse(work.stoppable { !work.goesOn() })
    }

    private companion object {
        val BATCHES = listOf(SmallProgram.batch())
    }
}
