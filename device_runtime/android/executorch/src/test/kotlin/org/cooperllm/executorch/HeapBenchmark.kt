package org.cooperllm.executorch

import com.sun.management.ThreadMXBean
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.zo.Adapter
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Golden
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor
import org.cooperllm.runtime.zo.Update
import java.io.File
import java.lang.management.ManagementFactory

/**
 * What the Kotlin device allocates on the heap, for benchmarks/android_heap.py: a process that answers each line.
 *
 *     adapter N       an adapter of N parameters: bytes of a direction (check, +1, -2, +1) and of an update
 *     directions N    a task of N directions on the golden toy program: bytes of the whole task
 *     an empty line   ends it
 *
 * The property golden.dir names the folder of golden files. Each answer is the median of several turns, after some to warm up.
 */
internal object HeapBenchmark {
    private const val EPSILON = 1e-3
    private const val TENSORS = 4
    private const val TURNS = 9
    private val threads = ManagementFactory.getThreadMXBean() as ThreadMXBean

    @JvmStatic
    @Suppress("UNUSED_PARAMETER")
    fun main(arguments: Array<String>) {
        println("imported")
        val file = ProgramFile(File(System.getProperty("golden.dir"), "toy.json"))
        val golden = Golden("local_update")
        ExecuTorchProgram.open(file.program, 1).use { program ->
            val core = file.open(program)
            val batches = CoreCase(golden.cases[0], core).batches().take(1)
            while (true) {
                val (what, count) = readln().split(' ').takeIf { it.size == 2 } ?: return
                when (what) {
                    "adapter" -> adapter(count.toInt())
                    else -> answer("task_bytes" to task(core, batches, count.toInt()))
                }
            }
        }
    }

    private fun adapter(parameters: Int) {
        val size = parameters / TENSORS
        val tensors = List(TENSORS) { LayoutTensor("t$it", it, intArrayOf(size), it * size, 20) }
        val adapter = Adapter(Layout(tensors), FloatVector.allocate(size * TENSORS))
        val direction = Direction(7)
        val step = Update(EPSILON, 9, listOf(direction), doubleArrayOf(1e-6))
        answer(
            "direction_bytes" to
                allocatedBytes {
                    adapter.check(direction, EPSILON)
                    adapter.perturb(direction, EPSILON, 1)
                    adapter.perturb(direction, EPSILON, -2)
                    adapter.perturb(direction, EPSILON, 1)
                },
            "update_bytes" to allocatedBytes { adapter.apply(step) },
        )
    }

    private fun task(
        core: Core,
        batches: List<Batch>,
        count: Int,
    ): Long {
        val directions = List(count) { Direction(it.toLong()) }
        return allocatedBytes { core.measure(batches, directions, EPSILON) }
    }

    private fun allocatedBytes(action: () -> Unit): Long =
        List(TURNS) {
            val before = threads.currentThreadAllocatedBytes
            action()
            threads.currentThreadAllocatedBytes - before
        }.sorted()[TURNS / 2]

    private fun answer(vararg figures: Pair<String, Long>) {
        println(figures.joinToString(", ", "{", "}") { (name, value) -> "\"$name\": $value" })
    }
}

/** A JVM that does nothing, for its memory beside the device's: says that it is there and waits. */
internal object BareJvm {
    @JvmStatic
    @Suppress("UNUSED_PARAMETER")
    fun main(arguments: Array<String>) {
        println("imported")
        while (readln().isNotBlank()) println("{}")
    }
}
