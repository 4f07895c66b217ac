package org.cooperllm.executorch

import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.ProgramOpener
import org.cooperllm.runtime.program.Value
import org.pytorch.executorch.DType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import java.io.File
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.util.concurrent.atomic.AtomicBoolean

/**
 * A program on ExecuTorch's Android classes (`org.pytorch:executorch-android`), the only file that knows them.
 *
 * Their API is marked experimental. Only what its versions in Java and in Kotlin have in common is called.
 */
public class ExecuTorchProgram private constructor(
    private val file: File,
    private val threads: Int,
) : Program {
    private var module = load()
    private var isOpen = true
    override val methods: Set<String> = explained(file.name) { module.methods.toSet() }

    override fun bind(
        data: FloatBuffer,
        shape: LongArray,
    ): Value = ExecuTorchValue(EValue.from(Tensor.fromBlob(data, shape)))

    override fun bind(
        data: LongBuffer,
        shape: LongArray,
    ): Value = ExecuTorchValue(EValue.from(Tensor.fromBlob(data, shape)))

    override fun run(
        method: String,
        inputs: Array<Value>,
    ): Array<Value> {
        check(isOpen) { "a program that is open" }
        val arguments = Array(inputs.size) { (inputs[it] as ExecuTorchValue).value }
        val outputs = explained("method '$method'") { module.execute(method, *arguments) }
        return Array(outputs.size) { ExecuTorchValue(outputs[it]) }
    }

    // One method alone cannot be unloaded through this API. Loading the program again maps its file and reads no weights.
    override fun unload() {
        check(isOpen) { "a program that is open" }
        module.destroy()
        module = load()
    }

    private fun load(): Module = explained(file.name) { Module.load(file.path, Module.LOAD_MODE_MMAP, threads) }

    override fun close() {
        if (!isOpen) return
        isOpen = false
        module.destroy()
        isAnyOpen.set(false)
    }

    /** Opens programs with ExecuTorch. */
    public companion object : ProgramOpener {
        // Loading a program replaces the process's thread pool, to which a loaded one keeps a pointer.
        private val isAnyOpen = AtomicBoolean()

        override fun open(
            file: File,
            threads: Int,
        ): Program {
            require(threads >= 1) { "at least one thread" }
            if (!isAnyOpen.compareAndSet(false, true)) {
                throw ProgramError("another program is open in this process: close it first")
            }
            var opened: Program? = null
            try {
                opened = ExecuTorchProgram(file, threads)
                return opened
            } finally {
                if (opened == null) isAnyOpen.set(false)
            }
        }
    }
}

private class ExecuTorchValue(
    val value: EValue,
) : Value {
    override fun shape(): LongArray = tensor().shape()

    override fun floats(): FloatArray {
        if (tensor().dtype() != DType.FLOAT) throw ProgramError("an output is ${tensor().dtype()}, not float32")
        return tensor().dataAsFloatArray
    }

    private fun tensor(): Tensor = explained("an output") { value.toTensor() }
}

/** ExecuTorch's exceptions are all unchecked ones, of several kinds. */
private inline fun <T> explained(
    what: String,
    call: () -> T,
): T =
    try {
        call()
    } catch (failure: RuntimeException) {
        val why = "$what cannot be loaded or run (${failure.message})"
        throw ProgramError("$why: export the bundle with the ExecuTorch of this release", failure)
    }
