package org.cooperllm.runtime.session

import kotlin.math.exp

/**
 * What the model says of a text.
 *
 * @property label the most probable class
 * @property probabilities of every class; they add up to 1
 */
public class Prediction(
    public val label: String,
    public val probabilities: Map<String, Double>,
) {
    internal companion object {
        /** By the adapter in the engine; softmax(logits) makes probabilities. Hold its lock. */
        fun of(
            engine: Engine,
            texts: List<String>,
        ): List<Prediction> =
            engine.classify(texts).map { logits ->
                val names = engine.bundle.manifest.task.classNames
                val best = logits.indices.fold(0) { most, i -> if (logits[i] > logits[most]) i else most }
                val shifted = logits.map { exp((it - logits[best]).toDouble()) }
                Prediction(names[best], names.indices.associate { names[it] to shifted[it] / shifted.sum() })
            }
    }
}
