package org.cooperllm.executorch

import com.sun.management.ThreadMXBean
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.Update
import java.io.File
import java.lang.management.ManagementFactory
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * The Kotlin side of benchmarks/android.py: a process that answers each line with one step's figures.
 *
 * Arguments: the file that describes program and batch, and the number of threads. It speaks as the children of
 * benchmarks/processes.py do: "imported" when it is ready to load, then a line of JSON for each line that it reads,
 * until an empty one.
 */
internal object StepBenchmark {
    private const val EPSILON = 1e-3
    private const val LEARNING_RATE = 1e-4
    private val threads = ManagementFactory.getThreadMXBean() as ThreadMXBean

    @JvmStatic
    fun main(arguments: Array<String>) {
        println("imported")
        readln()
        val file = File(arguments[0])
        val startNs = System.nanoTime()
        val description = ProgramFile(file)
        ExecuTorchProgram.open(description.program, arguments[1].toInt()).use { program ->
            val core = description.open(program)
            readAdapter(core, File(file.parentFile, "adapter.bin"))
            val batch = readBatch(file)
            step(core, batch, 0)
            answer("load_ms" to 1e-6 * (System.nanoTime() - startNs))
            var seed = 1L
            while (readln().isNotBlank()) answer(*timed(core, batch, seed++))
        }
    }

    /** One step of one direction in all segments, and one bare forward. */
    private fun timed(
        core: Core,
        batch: Batch,
        seed: Long,
    ): Array<Pair<String, Double>> {
        core.chain.counters.reset()
        val allocated = threads.currentThreadAllocatedBytes
        val startNs = System.nanoTime()
        step(core, batch, seed)
        val stepNs = System.nanoTime() - startNs
        val allocatedBytes = threads.currentThreadAllocatedBytes - allocated
        val insideNs = core.chain.counters.forwardNs
        val forwardStartNs = System.nanoTime()
        core.logits(batch)
        return arrayOf(
            "step_ms" to 1e-6 * stepNs,
            "overhead" to (stepNs - insideNs).toDouble() / insideNs,
            "forward_ms" to 1e-6 * (System.nanoTime() - forwardStartNs),
            "allocated_bytes" to allocatedBytes.toDouble(),
        )
    }

    private fun step(
        core: Core,
        batch: Batch,
        seed: Long,
    ) {
        val directions = listOf(Direction(seed))
        val rho = core.measure(listOf(batch), directions, EPSILON).rho[0]
        core.update(Update(EPSILON, seed, directions, doubleArrayOf(-LEARNING_RATE * rho)))
    }

    private fun readAdapter(
        core: Core,
        file: File,
    ) {
        val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        val values = FloatArray(bytes.remaining()).also { bytes.get(it) }
        core.adapter.write(0, values, values.size)
    }

    private fun readBatch(file: File): Batch {
        val fields =
            Json
                .parseToJsonElement(file.readText())
                .jsonObject
                .getValue("batch")
                .jsonObject

        fun whole(name: String) = fields.getValue(name).jsonArray.toLongs()
        val weights = fields.getValue("weights").jsonArray.map { it.jsonPrimitive.double }
        val tokens = fields.getValue("tokens").jsonPrimitive.int
        return Batch(whole("input_ids"), whole("attention_mask"), whole("labels"), weights.toDoubleArray(), tokens)
    }

    private fun JsonArray.toLongs() = LongArray(size) { this[it].jsonPrimitive.long }

    private fun answer(vararg figures: Pair<String, Double>) {
        println(figures.joinToString(", ", "{", "}") { (name, value) -> "\"$name\": $value" })
    }
}
