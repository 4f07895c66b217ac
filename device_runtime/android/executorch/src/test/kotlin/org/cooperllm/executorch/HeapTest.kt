package org.cooperllm.executorch

import com.sun.management.ThreadMXBean
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.Golden
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.lang.management.ManagementFactory

/** What a direction allocates on the heap: the handles of what its methods give, and nothing for its parameters. */
class HeapTest {
    private val threads = ManagementFactory.getThreadMXBean() as ThreadMXBean
    private val golden = File(System.getProperty("golden.dir"))

    @Test
    fun `a direction allocates the same few kilobytes, however many there are`() {
        val file = ProgramFile(File(golden, "toy.json"))
        ExecuTorchProgram.open(file.program, 1).use { program ->
            val core = file.open(program)
            val batches = CoreCase(Golden("local_update").cases[0], core).batches().take(1)

            fun allocatedBytes(count: Int): Long {
                val directions = List(count) { Direction(it.toLong()) }
                val before = threads.currentThreadAllocatedBytes
                core.measure(batches, directions, 1e-3)
                return threads.currentThreadAllocatedBytes - before
            }
            repeat(20) { allocatedBytes(64) } // the compiler allocates as well, until it is done
            val few = allocatedBytes(64)
            val many = allocatedBytes(192)
            val perDirection = (many - few) / 128
            assertTrue("$perDirection bytes a direction", perDirection in 1..MOST_BYTES)
        }
    }

    private companion object {
        /** Six runs, each of up to three outputs. */
        const val MOST_BYTES = 12_000L
    }
}
