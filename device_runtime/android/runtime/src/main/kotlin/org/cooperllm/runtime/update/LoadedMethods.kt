package org.cooperllm.runtime.update

import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value

/** A program, and which of its methods were run: those are in memory, and no others. */
internal class LoadedMethods(
    private val program: Program,
) : Program by program {
    private val loaded = sortedSetOf<String>()

    /** The methods whose weights are in memory. */
    val names: Set<String> get() = loaded

    override fun run(
        method: String,
        inputs: Array<Value>,
    ): Array<Value> {
        loaded += method // one that fails may have been loaded all the same
        return program.run(method, inputs)
    }

    override fun unload() {
        loaded.clear()
        program.unload()
    }

    /**
     * Lets go of all methods, where one is loaded that is not wanted: what is wanted is loaded again when it runs. All
     * outputs are gone then; answers whether that is so.
     */
    fun keepOnly(isWanted: (String) -> Boolean): Boolean {
        if (loaded.all(isWanted)) return false
        unload()
        return true
    }
}
