package org.cooperllm.runtime.session

import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.NotEnoughExamples
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.update.LocalUpdate

/**
 * How well the model does on examples.
 *
 * @property examples those that count: examples with a label outside the classes are left out
 * @property correct right answers; where the model answers in words, right tokens
 * @property accuracy the share of right answers (of tokens, where it answers in words)
 * @property meanLoss in nats
 */
public data class Evaluation(
    public val examples: Int,
    public val correct: Int,
    public val accuracy: Double,
    public val meanLoss: Double,
)

/** A device's adapters in use: the shared version that it holds, and what it personalised. Nothing of it leaves. */
internal class Learned(
    private val store: Store,
    private val holdings: Holdings,
    private val source: ExampleSource,
) {
    /** Held while the personal file is made or deleted. */
    private val changing = Mutex()

    /** See FederatedDevice.predict. */
    suspend fun predict(
        texts: List<String>,
        usePersonal: Boolean,
    ): List<Prediction> = withEngine { engine -> withAdapter(engine, usePersonal) { Prediction.of(engine, texts) } }

    /** See FederatedDevice.evaluate. */
    suspend fun evaluate(
        examples: List<Example>,
        usePersonal: Boolean,
    ): Evaluation =
        withEngine { engine ->
            val set = engine.exampleSet(examples)
            if (set.count == 0) {
                throw NotEnoughExamples("no example with a known label to evaluate on: give some")
            }
            val found = withAdapter(engine, usePersonal) { LocalUpdate.evaluate(engine.core, set) }
            Evaluation(set.count, found.correct.toInt(), found.correct / found.count, found.lossSum / found.count)
        }

    /** See FederatedDevice.personalise. */
    suspend fun personalise(
        practice: Practice,
        watch: Watch,
        onBlock: (steps: Int, loss: Double) -> Unit,
    ): Personalised =
        changing.withLock {
            withEngine { engine ->
                val private = engine.privateExamples(source.ask(engine.knownLabels))
                val (after, found) =
                    private.use { Personalising(engine, practice, watch::goesOn, onBlock).run(it, personal(engine)) }
                // Whoever stopped it wants nothing changed; time that is up is another matter.
                if (!watch.isWanted()) throw Stopped("stopped: nothing was personalised")
                if (found.isKept) store.writePersonal(after.toBytes())
                found
            }
        }

    /** See FederatedDevice.forgetPersonal. */
    suspend fun forgetPersonal(): Unit = changing.withLock { store.forgetPersonal() }

    private fun personal(engine: Engine): Personal? =
        Personal.fromBytes(store.readPersonal(), engine.bundle.sha256, engine.bundle.layout)

    /** With the private adapter in the engine, where it is wanted and there is one; the shared one is there afterwards. */
    private fun <T> withAdapter(
        engine: Engine,
        usePersonal: Boolean,
        action: () -> T,
    ): T {
        val personal = (if (usePersonal) personal(engine) else null) ?: return action()
        val shared = engine.core.adapter.copy()
        try {
            personal.applyTo(engine.core.adapter, engine.bundle.layout)
            return action()
        } finally {
            engine.core.adapter.copyFrom(shared)
        }
    }

    private suspend fun <T> withEngine(action: (Engine) -> T): T {
        while (true) {
            val sha256 = holdings.bundleSha256()
            if (sha256.isEmpty()) {
                throw BundleError("this device holds no bundle yet: runOnce() fetches it with a task")
            }
            val engine = holdings.load(sha256)
            // Another bundle may have come while this waited.
            engine.lock.withLock { if (!engine.isClosed) return action(engine) }
        }
    }
}
