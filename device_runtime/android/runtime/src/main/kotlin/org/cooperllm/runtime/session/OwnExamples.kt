package org.cooperllm.runtime.session

/** A device's own examples during one session: asked for once, kept in memory with all that was computed of them. */
internal class OwnExamples(
    private val source: ExampleSource,
) {
    private var prepared: PrivateExamples? = null
    private var preparedOf: Engine? = null
    private var guessed: Int? = null // until a bundle says which labels count

    /** As the last bundle saw them, or null before the first. */
    val known: PrivateExamples? get() = prepared

    /** How many to learn from. Raises ExamplesError. */
    fun trainCount(): Int =
        prepared?.train?.count ?: guessed ?: PrivateExamples.countTraining(source.ask(null)).also { guessed = it }

    /** As the engine's bundle sees them: another has tokens, classes and hidden states of its own. Raises ExamplesError. */
    fun of(engine: Engine): PrivateExamples {
        prepared?.let { if (preparedOf === engine) return it }
        forget()
        return engine.privateExamples(source.ask(engine.knownLabels)).also {
            prepared = it
            preparedOf = engine
        }
    }

    /** Asks the source anew next time, and lets go of all that was kept. */
    fun forget() {
        prepared?.close()
        prepared = null
        preparedOf = null
        guessed = null
    }
}
