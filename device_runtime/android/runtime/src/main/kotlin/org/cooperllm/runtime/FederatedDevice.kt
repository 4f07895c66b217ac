package org.cooperllm.runtime

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.flow.asSharedFlow
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import org.cooperllm.runtime.program.ProgramOpener
import org.cooperllm.runtime.session.Budget
import org.cooperllm.runtime.session.Conditions
import org.cooperllm.runtime.session.DeviceKeys
import org.cooperllm.runtime.session.Engine
import org.cooperllm.runtime.session.Evaluation
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.ExampleSource
import org.cooperllm.runtime.session.Holdings
import org.cooperllm.runtime.session.Learned
import org.cooperllm.runtime.session.Limits
import org.cooperllm.runtime.session.Offline
import org.cooperllm.runtime.session.Outcome
import org.cooperllm.runtime.session.Personalised
import org.cooperllm.runtime.session.Practice
import org.cooperllm.runtime.session.Prediction
import org.cooperllm.runtime.session.ServiceAddress
import org.cooperllm.runtime.session.Session
import org.cooperllm.runtime.session.StoredKeys
import org.cooperllm.runtime.session.Surroundings
import org.cooperllm.runtime.session.Transport
import org.cooperllm.runtime.session.Watch
import org.cooperllm.runtime.session.Work
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
 *     device.personalise()                         // learns for this device alone
 *     device.stop()
 *     device.forget()                              // deletes key, adapter, bundle and account
 *
 * What leaves the device is numbers, never text, and how many of them [budget] bounds; [disclosures] lists them. One
 * object a folder; every function may be called from any thread. Work in the background is scheduled by
 * `org.cooperllm.android.TrainingSchedule` on Android, which calls [runOnce]; an app with a scheduler of its own calls it
 * itself.
 *
 * Raises StoreInUse or StoreError when the folder cannot be used, OptionError for an address that is none.
 *
 * @param folder a folder of its own, in the app's private storage
 * @param address where the service is; null for a device that only uses what it holds
 * @param examples the app's labelled examples: see [ExampleSource]
 * @param programs opens programs: on a phone `ExecuTorchProgram`
 * @param budget how much the device is willing to disclose
 * @param threads of the program; more than the fast cores of a phone make it slower
 * @param limits what the device may take of memory and time
 * @param conditions what has to be true while it works
 * @param keys where the private key lies; null: in [folder]
 * @param tokenizers opens a tokenizer.json
 */
public class FederatedDevice
    @JvmOverloads
    constructor(
        private val folder: File,
        private val address: ServiceAddress?,
        private val examples: ExampleSource,
        private val programs: ProgramOpener,
        private val budget: Budget = Budget(),
        private val threads: Int = 1,
        private val limits: Limits = Limits(),
        conditions: Conditions = Conditions { emptyList() },
        keys: DeviceKeys? = null,
        private val tokenizers: (File) -> Tokenizer = ::HuggingFaceTokens,
    ) : Closeable {
        private val store = Store(folder)
        private val keys = keys ?: StoredKeys(store)
        private val events = MutableSharedFlow<Event>(0, MOST_EVENTS_BEHIND, BufferOverflow.DROP_OLDEST)
        private val random = SecureRandom()
        private val work = Work { session.holdings.engine?.core }
        private val watch = Watch(limits, conditions, isWanted = work::goesOn)
        private var session: Session

        init {
            try {
                session = begin()
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
         * Cancelling the coroutine is as [stop]: no finished direction is lost, and another call goes on there. So does one
         * after the time of [limits] was up.
         * The examples are asked for at the first turn, and anew after [refreshExamples].
         *
         * Raises ServerUnreachable (try again later), ServerRefused (do not), StoreError, BundleError, ProgramError,
         * ExamplesError (correct the source) or Stopped.
         */
        public suspend fun runOnce(): Outcome {
            watch.beginSession()
            return turn()
        }

        /**
         * One session: turn after turn, with the pauses that the cloud asks for, until the job is over (true) or the time of
         * [limits] is up (false: another call goes on). Raises as [runOnce].
         *
         * The examples are asked for anew at its beginning.
         */
        public suspend fun runUntilFinished(): Boolean {
            refreshExamples()
            watch.beginSession()
            while (true) {
                val outcome = turn()
                if (outcome.isFinished || watch.isTimeUp) return outcome.isFinished
                delay(watch.withinSession(outcome.waitMs).toLong())
            }
        }

        private suspend fun turn(): Outcome =
            work.stoppable {
                try {
                    session.turn()
                } catch (stopped: Stopped) {
                    if (work.goesOn() && watch.isTimeUp) Outcome() else throw stopped
                }
            }

        /**
         * Ends the turn or the personalising that is under way, if any: its call raises Stopped. A group of quick directions
         * ends by itself within 0.2 s; what takes longer ends within one segment of a computation.
         *
         * No finished direction is lost, and the adapter is as it was.
         */
        public fun stop(): Unit = work.stop()

        /** Lets the session ask for the examples anew, because they changed. */
        public suspend fun refreshExamples(): Unit = work.alone { session.forgetExamples() }

        /**
         * The classes of texts, by the adapter version that the device holds; works without a network. Waits for a
         * computation under way.
         *
         * With [usePersonal] the private adapter answers, where [personalise] made one for this bundle.
         *
         * Raises BundleError while the device holds no bundle: [runOnce] fetches it with the first task.
         * UnsupportedTask where the model answers in words and sorts no texts into classes.
         */
        @JvmOverloads
        public suspend fun predict(
            texts: List<String>,
            usePersonal: Boolean = true,
        ): List<Prediction> = withContext(Dispatchers.IO) { session.learned.predict(texts, usePersonal) }

        /**
         * How well the adapter that the device holds does on examples; works without a network, and the numbers stay here.
         * Waits for a computation under way.
         *
         * With [usePersonal] it is the private adapter, where [personalise] made one for this bundle. Examples with a label
         * outside the classes are left out.
         *
         * Raises BundleError while the device holds no bundle, NotEnoughExamples when none has a known label,
         * LossNotFinite.
         */
        @JvmOverloads
        public suspend fun evaluate(
            examples: List<Example>,
            usePersonal: Boolean = true,
        ): Evaluation = withContext(Dispatchers.IO) { session.learned.evaluate(examples, usePersonal) }

        /**
         * Learns from this device's examples alone, for this device alone: a private adapter on top of the shared one, which
         * stays as it is. Nothing of it is ever reported. A later call goes on where the last one ended.
         *
         * Waits for a turn under way; works without a network. [progress] tells of it in the phase "personalise".
         *
         * Raises NotEnoughExamples with fewer than 8 to learn from, BundleError while the device holds no bundle,
         * OptionError, ExamplesError, LossNotFinite (use a smaller epsilon) or Stopped: nothing was changed.
         */
        @JvmOverloads
        public suspend fun personalise(practice: Practice = Practice()): Personalised =
            work.stoppable {
                watch.beginSession()
                session.personalise(practice)
            }

        /** Deletes what personalising changed, and nothing else. Waits for a personalising under way. */
        public suspend fun forgetPersonal(): Unit = withContext(Dispatchers.IO) { session.learned.forgetPersonal() }

        /** What left this device about its examples, a report each, newest first: the last 128. */
        public fun disclosures(): List<Disclosure> = store.state.disclosures.asReversed()

        /**
         * Stops, and deletes everything that was stored: key, adapter, bundle, guides, what was personalised, account of
         * disclosures. To the cloud, this device is a new one from then on.
         */
        public suspend fun forget() {
            stop()
            work.alone {
                withContext(Dispatchers.IO) {
                    session.close()
                    keys.forget()
                    store.forget()
                    session = begin()
                }
            }
        }

        /** Stops, waits for what is under way to end, and gives folder and memory back. The object is of no use afterwards. */
        override fun close() {
            stop()
            runBlocking { work.alone { session.close() } }
            store.close()
        }

        /** Everything that depends on the key: made at the start, and anew after forget(). */
        private fun begin(): Session {
            val cloud = if (address == null) Offline() else Transport(address, keys.signer())
            val holdings = Holdings(store, cloud) { Engine(it, programs, tokenizers, threads, limits, folder) }
            val surroundings =
                Surroundings(
                    uniform = { low, high -> low + random.nextDouble() * (high - low) },
                    gauss = { random.nextGaussian() },
                    watch = watch,
                )
            return Session(cloud, store, holdings, examples, surroundings, budget) { events.tryEmit(it) }
        }

        private companion object {
            const val MOST_EVENTS_BEHIND = 1024
        }
    }
