package org.cooperllm.runtime.session

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.job
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeoutOrNull
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.update.Core

/** What a device does, one thing at a time, and its end from outside. [core] is what computes now, if anything does. */
internal class Work(
    private val core: () -> Core?,
) {
    private val working = Mutex()
    private val gate = Any()
    private var running: Job? = null

    @Volatile
    private var isStopping = false

    /** Asked between directions: false once the work under way should end. */
    fun goesOn(): Boolean = !isStopping

    /**
     * Does [action] when everything before it has ended. [stop] ends it with Stopped, and so does cancelling the caller.
     *
     * Either way a group of quick directions first ends by itself, so that what it finished is kept; only a direction that
     * takes longer is cut.
     */
    suspend fun <T> stoppable(action: suspend () -> T): T =
        working.withLock {
            try {
                coroutineScope {
                    val job = currentCoroutineContext().job
                    synchronized(gate) { running = job }
                    val computing = async(Dispatchers.IO) { action() }
                    try {
                        computing.await()
                    } catch (error: CancellationException) {
                        val wasStopped = isStopping
                        isStopping = true
                        withContext(NonCancellable) { end(computing) }
                        throw if (wasStopped) Stopped(STOPPED) else error
                    }
                }
            } catch (error: Stopped) {
                currentCoroutineContext().ensureActive() // whoever cancelled the caller wants to hear of that
                throw error
            } finally {
                synchronized(gate) {
                    running = null
                    isStopping = false
                    core()?.resume()
                }
            }
        }

    /** Does [action] when everything before it has ended. */
    suspend fun <T> alone(action: suspend () -> T): T = working.withLock { action() }

    /** Ends what [stoppable] does, if anything. */
    fun stop() {
        synchronized(gate) {
            val job = running ?: return
            isStopping = true
            job.cancel()
        }
    }

    private suspend fun end(computing: Job) {
        if (withTimeoutOrNull(GRACE_MS) { computing.join() } == null) core()?.stop()
    }

    private companion object {
        /** Twice the length that a group of directions aims at. */
        const val GRACE_MS = 200L
        const val STOPPED = "stopped: call again to go on"
    }
}
