package org.cooperllm.runtime.session

import org.cooperllm.runtime.BundleTooLarge
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.bundle.BundlePart
import java.io.File
import java.io.IOException

/**
 * How much memory a bundle takes on a device, beside the virtual machine's own.
 *
 *     weights        as large as the program's file: each weight is packed once, the file itself is mapped
 *     activations    what ExecuTorch plans for every method: here methods share no memory
 *     adapter        twice: a copy exists while a version is reached or arrives, and while a task moves the adapter
 *     hidden states  two of batch x tokens x width: the one that a batch enters with, and a copy on its way
 *
 * All methods are counted but those for both signs at once, which are never run here, though one that no task needs is
 * never loaded: which tasks will come is not known.
 */
internal class Memory(
    bundle: Bundle,
) {
    private val needed: Map<String, Long>

    init {
        val chain = bundle.manifest.chain
        val state = FLOAT_BYTES * chain.batchExamples * bundle.manifest.text.maxTokens * chain.hiddenSize
        needed =
            mapOf(
                "weights" to bundle.file(BundlePart.PROGRAM).length(),
                "activations" to chain.methods.filterNot { it.name.startsWith(PAIR) }.sumOf { it.plannedBytes },
                "adapter" to 2 * FLOAT_BYTES * bundle.layout.parameters,
                "hidden states" to 2 * state,
            )
    }

    /** All of it. */
    val neededBytes: Long = needed.values.sum()

    /** What a limit leaves beside a bundle. Raises BundleTooLarge, naming the limit that would do. */
    fun leftBytes(maxMemoryBytes: Long): Long {
        if (neededBytes <= maxMemoryBytes) return maxMemoryBytes - neededBytes
        val parts = needed.entries.joinToString { (name, size) -> "$name ${megabytes(size)}" }
        throw BundleTooLarge(
            "this bundle takes ${megabytes(neededBytes)} MB ($parts) and maxMemoryBytes is $maxMemoryBytes: " +
                "allow $neededBytes, or have the bundle exported with a lower --precision or a smaller batch",
        )
    }

    companion object {
        private const val FLOAT_BYTES = 4L
        private const val PAIR = "pair_"
        private const val KILO = 1024L
        private const val STATUS = "/proc/self/status"
        private const val RESIDENT = "VmRSS:"

        /** What of this process lies in memory now, the virtual machine's own included; 0 where the system does not tell. */
        fun residentBytes(): Long {
            val line =
                try {
                    File(STATUS).useLines { lines -> lines.firstOrNull { it.startsWith(RESIDENT) } }
                } catch (_: IOException) {
                    null
                }
            val digits = line.orEmpty().filter { it.isDigit() }
            return (digits.toLongOrNull() ?: 0) * KILO
        }

        private fun megabytes(sizeBytes: Long) = String.format(java.util.Locale.ROOT, "%.1f", sizeBytes / 1e6)
    }
}
