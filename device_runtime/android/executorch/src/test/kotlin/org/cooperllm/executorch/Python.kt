package org.cooperllm.executorch

import org.junit.Assert.assertEquals
import org.junit.Assume.assumeTrue
import java.io.File

/** The project's Python, asked for figures on this CPU. */
internal object Python {
    private const val HAS_NOT = "No module named"

    /** Runs a module at the repository's [root]; a test is skipped where Python lacks what it needs. */
    fun run(
        root: File,
        module: String,
        vararg arguments: String,
    ) {
        val python = System.getProperty("cooperllm.python")
        val builder = ProcessBuilder(python, "-m", module, *arguments).directory(root).redirectErrorStream(true)
        builder.environment()["PYTHONPATH"] = root.path
        val process = builder.start()
        val said = process.inputStream.bufferedReader().readText()
        val status = process.waitFor()
        assumeTrue("$python has not the C++ core, so it was not compared (scripts/set_up): $said", HAS_NOT !in said)
        assertEquals(said, 0, status)
    }
}
