package org.cooperllm.runtime.program

import java.io.Closeable
import java.io.File
import java.nio.FloatBuffer
import java.nio.LongBuffer

/**
 * An open program: named methods that take and give tensors. The one seam to ExecuTorch.
 *
 * Nothing above it knows ExecuTorch, so that a test puts a small program of its own in its place. One call at a time.
 * After [close] neither the program nor any [Value] of it may be touched.
 *
 * Shapes are not told beforehand: ExecuTorch's Android classes do not say them. A method that is given what it does not
 * take refuses to run.
 */
public interface Program : Closeable {
    /** The names of its methods. */
    public val methods: Set<String>

    /**
     * Makes an input over memory that stays the caller's. It is not copied: each run reads what is there then.
     *
     * [data] is direct, in native order, and its capacity is the number of elements of [shape]; anything else is an
     * IllegalArgumentException, a mistake of the code that calls.
     */
    public fun bind(
        data: FloatBuffer,
        shape: LongArray,
    ): Value

    /** The same for 64-bit integers. */
    public fun bind(
        data: LongBuffer,
        shape: LongArray,
    ): Value

    /**
     * Runs a method; its first run also loads its weights. Returns its outputs.
     *
     * Inputs are bound memory or outputs of other methods, which need no copy. An output lies in memory of the method's
     * own: it stays as it is while other methods run, and means something else once this method runs again.
     *
     * Raises ProgramError with ExecuTorch's words: the caller restores what it changed and reports it.
     */
    public fun run(
        method: String,
        inputs: Array<Value>,
    ): Array<Value>

    /**
     * Gives the memory of all methods back: each is loaded again when it next runs. Bound inputs stay; no output that was
     * given before may be touched.
     *
     * Raises ProgramError when the program can no longer be read: drop the bundle.
     */
    public fun unload()
}

/** A tensor that a program takes or gives. Hidden states are handed from method to method as such handles. */
public interface Value {
    /** Its sizes; a copy. */
    public fun shape(): LongArray

    /** A copy of its elements, which are float32. Raises ProgramError where they are not. */
    public fun floats(): FloatArray
}

/** Opens programs. */
public fun interface ProgramOpener {
    /**
     * Maps the program in [file] and runs it with [threads] threads, at least 1.
     *
     * The threads are the process's, so only one program may be open at a time. Raises ProgramError when the file is no
     * program that this runtime can open: the caller drops the bundle, or closes the other program first.
     */
    public fun open(
        file: File,
        threads: Int,
    ): Program
}
