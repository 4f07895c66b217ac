package org.cooperllm.runtime

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.flow.asSharedFlow
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import org.cooperllm.runtime.program.ProgramOpener
import org.cooperllm.runtime.session.Budget
import org.cooperllm.runtime.session.DeviceKeys
import org.cooperllm.runtime.session.Engine
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.ExampleSource
import org.cooperllm.runtime.session.Holdings
import org.cooperllm.runtime.session.Outcome
import org.cooperllm.runtime.session.Prediction
import org.cooperllm.runtime.session.ServiceAddress
import org.cooperllm.runtime.session.Session
import org.cooperllm.runtime.session.StoredKeys
import org.cooperllm.runtime.session.Surroundings
import org.cooperllm.runtime.session.Transport
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.text.HuggingFaceTokens
import org.cooperllm.runtime.text.Tokenizer
import java.io.Closeable
import java.io.File
import java.security.SecureRandom

/**
 * One participant in federated fine-tuning, for an app to embed.
 *
 *     val device = FederatedDevice(folder, ServiceAddress("cloud.example:50051"), myExamples, ExecuTorchProgram)
 *     device.runOnce()                             // a turn: hands in what is pending, or gets a task and does it
 *     device.predict(listOf("wake me at seven"))   // with what was learned so far, without a network
 *     device.stop()
 *     device.forget()                              // deletes key, adapter, bundle and account
 *
 * What leaves the device is numbers, never text, and how many of them [budget] bounds. One object a folder; every
 * function may be called from any thread.
 *
 * Raises StoreInUse or StoreError when the folder cannot be used, OptionError for an address that is none.
 *
 * @param folder a folder of its own, in the app's private storage
 * @param address where the service is
 * @param examples the app's labelled examples: see [ExampleSource]
 * @param programs opens programs: on a phone `ExecuTorchProgram`
 * @param budget how much the device is willing to disclose
 * @param threads of the program; more than the fast cores of a phone make it slower
 * @param keys where the private key lies; null: in [folder]
 * @param tokenizers opens a tokenizer.json
 */
public class FederatedDevice
    @JvmOverloads
    constructor(
        folder: File,
        private val address: ServiceAddress,
        private val examples: ExampleSource,
        private val programs: ProgramOpener,
        private val budget: Budget = Budget(),
        private val threads: Int = 1,
        keys: DeviceKeys? = null,
        private val tokenizers: (File) -> Tokenizer = ::HuggingFaceTokens,
    ) : Closeable {
        private val store = Store(folder)
        private val keys = keys ?: StoredKeys(store)
        private val events = MutableSharedFlow<Event>(0, MOST_EVENTS_BEHIND, BufferOverflow.DROP_OLDEST)
        private val random = SecureRandom()

        /** Held over a turn, and over everything that must not meet one. */
        private val working = Mutex()
        private val gate = Any()
        private var running: Deferred<Outcome>? = null

        @Volatile
        private var isStopping = false
        private var parts: Parts

        private class Parts(
            val cloud: Transport,
            val holdings: Holdings,
            val session: Session,
        )

        init {
            try {
                parts = begin()
            } catch (error: Throwable) {
                store.close()
                throw error
            }
        }

        /**
         * What happens, as it happens: see [Event]. A collector that falls far behind loses the oldest; none slows the
         * work down.
         */
        public val progress: SharedFlow<Event> = events.asSharedFlow()

        /**
         * One turn: hands in what is pending, or checks in and does the task it is given. The app calls it again after
         * [Outcome.waitMs], or whenever its own scheduler says so.
         *
         * Cancelling the coroutine is as [stop]: no finished direction is lost, and another call goes on there.
         * The examples are asked for at the first turn, and anew after [refreshExamples].
         *
         * Raises ServerUnreachable (try again later), ServerRefused (do not), StoreError, BundleError, ProgramError,
         * ExamplesError (correct the source) or Stopped.
         */
        public suspend fun runOnce(): Outcome =
            working.withLock {
                try {
                    coroutineScope {
                        val turn = async(Dispatchers.IO) { parts.session.turn() }
                        synchronized(gate) { running = turn }
                        try {
                            turn.await()
                        } catch (error: CancellationException) {
                            // Whoever cancelled: what computes must hear of it, too.
                            parts.holdings.engine
                                ?.core
                                ?.stop()
                            throw if (isStopping) Stopped(STOPPED) else error
                        }
                    }
                } finally {
                    synchronized(gate) {
                        running = null
                        isStopping = false
                        parts.holdings.engine
                            ?.core
                            ?.resume()
                    }
                }
            }

        /**
         * Turn after turn, with the pauses that the cloud asks for, until the job is over. Raises as [runOnce].
         *
         * The examples are asked for anew at its beginning.
         */
        public suspend fun runUntilFinished() {
            working.withLock { parts.session.forgetExamples() }
            while (true) {
                val outcome = runOnce()
                if (outcome.isFinished) return
                delay(outcome.waitMs.toLong())
            }
        }

        /**
         * Ends the turn that is under way, if any, within one segment of a computation: its [runOnce] raises Stopped. No
         * finished direction is lost, and the adapter is as it was.
         */
        public fun stop() {
            synchronized(gate) {
                val turn = running ?: return
                isStopping = true
                parts.holdings.engine
                    ?.core
                    ?.stop()
                turn.cancel()
            }
        }

        /** Lets the session ask for the examples anew, because they changed. */
        public suspend fun refreshExamples(): Unit = working.withLock { parts.session.forgetExamples() }

        /**
         * The classes of texts, by the adapter version that the device holds; works without a network. Waits for a
         * computation under way.
         *
         * Raises BundleError while the device holds no bundle: [runOnce] fetches it with the first task.
         * UnsupportedTask where the model answers in words and sorts no texts into classes.
         */
        public suspend fun predict(texts: List<String>): List<Prediction> =
            withContext(Dispatchers.IO) { withEngine { Prediction.of(it, texts) } }

        /**
         * Stops, and deletes everything that was stored: key, adapter, bundle, guides, account of disclosures. To the
         * cloud, this device is a new one from then on.
         */
        public suspend fun forget() {
            stop()
            working.withLock {
                withContext(Dispatchers.IO) {
                    end()
                    keys.forget()
                    store.forget()
                    parts = begin()
                }
            }
        }

        /** Stops, waits for what is under way to end, and gives folder and memory back. The object is of no use afterwards. */
        override fun close() {
            stop()
            runBlocking {
                working.withLock { end() }
            }
            store.close()
        }

        private suspend fun withEngine(action: (Engine) -> List<Prediction>): List<Prediction> {
            while (true) {
                val sha256 = parts.holdings.bundleSha256()
                if (sha256.isEmpty()) {
                    throw BundleError("this device holds no bundle yet: runOnce() fetches it with a task")
                }
                val engine = parts.holdings.load(sha256)
                // Another bundle may have come while this waited.
                engine.lock.withLock { if (!engine.isClosed) return action(engine) }
            }
        }

        private suspend fun end() {
            parts.session.forgetExamples()
            parts.cloud.close()
            parts.holdings.closeEngine()
        }

        /** Everything that depends on the key: made at the start, and anew after forget(). */
        private fun begin(): Parts {
            val cloud = Transport(address, keys.signer())
            val holdings = Holdings(store, cloud) { Engine(it, programs, tokenizers, threads) }
            val surroundings =
                Surroundings(
                    uniform = { low, high -> low + random.nextDouble() * (high - low) },
                    gauss = { random.nextGaussian() },
                    goOn = { !isStopping },
                )
            val session = Session(cloud, store, holdings, examples, surroundings, budget) { events.tryEmit(it) }
            return Parts(cloud, holdings, session)
        }

        private companion object {
            const val MOST_EVENTS_BEHIND = 1024
            const val STOPPED = "stopped: call again to go on"
        }
    }
