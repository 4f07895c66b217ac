package org.cooperllm.runtime.update

import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.Value
import org.cooperllm.runtime.zo.FloatVector
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.LongBuffer

/**
 * A batch in the memory that a program reads. As long as batches have the same number of tokens, nothing is allocated.
 */
internal class BatchInputs(
    private val program: Program,
    private val shape: ChainShape,
) {
    /** Inputs of `embed`: ids and mask, int64 (B, T). */
    var embed: Array<Value> = emptyArray()
        private set

    /** The shape of a hidden state of this batch, (B, T, D). */
    var hiddenShape: LongArray = LongArray(0)
        private set

    /** The labels of the batch. */
    var labels: LongArray = LongArray(0)
        private set

    private val rows = shape.batchExamples
    private val ids = LongCells(rows * shape.maxTokens)
    private val wholeMask = LongCells(rows * shape.maxTokens)
    private val mask = FloatVector.allocate(rows * shape.maxTokens)
    private val maskValues = FloatArray(rows * shape.maxTokens)
    private val labelCells = LongCells(rows)
    private var tokens = 0

    /** int64 (B); of heads whose targets are one a row. */
    val labelInput: Value = program.bind(labelCells.first(rows), longArrayOf(rows.toLong()))

    /** float32 (B, T). */
    var maskInput: Value = labelInput
        private set

    init {
        require(rows > 0 && shape.maxTokens > 0 && shape.hiddenSize > 0) { "a chain with rows, tokens and a width" }
        resize(shape.maxTokens)
    }

    /** Copies a batch whose sizes were checked. */
    fun set(batch: Batch) {
        if (batch.tokens != tokens) resize(batch.tokens)
        val cells = rows * tokens
        ids.write(batch.inputIds, cells)
        wholeMask.write(batch.attentionMask, cells)
        for (i in 0 until cells) maskValues[i] = batch.attentionMask[i].toFloat()
        mask.write(0, maskValues, cells)
        labels = batch.labels
        if (!shape.targetsAreTokens) labelCells.write(batch.labels, rows)
    }

    /** The hidden state that a batch came with. */
    fun hidden(batch: Batch): Value {
        val state = requireNotNull(batch.hidden) { "a batch that comes with its hidden state" }
        return program.bind(state.buffer, hiddenShape)
    }

    private fun resize(newTokens: Int) {
        tokens = newTokens
        val cells = rows * tokens
        val sizes = longArrayOf(rows.toLong(), tokens.toLong())
        embed = arrayOf(program.bind(ids.first(cells), sizes), program.bind(wholeMask.first(cells), sizes))
        maskInput = program.bind(mask.view(0, cells), sizes)
        hiddenShape = sizes + shape.hiddenSize.toLong()
    }
}

/** 64-bit integers in direct, native-order memory, with room behind them for a program's vector loads. */
internal class LongCells(
    count: Int,
) {
    private val buffer: LongBuffer =
        ByteBuffer.allocateDirect(LONG_BYTES * count + SPARE_BYTES).order(ByteOrder.nativeOrder()).asLongBuffer()

    /** A view of the first [count] values, exactly as long as a tensor of it must be. */
    fun first(count: Int): LongBuffer {
        val view = buffer.duplicate()
        (view as Buffer).position(0).limit(count)
        return view.slice()
    }

    /** Copies the first [count] of [values] to the beginning. */
    fun write(
        values: LongArray,
        count: Int,
    ) {
        (buffer as Buffer).position(0)
        buffer.put(values, 0, count)
    }

    private companion object {
        const val LONG_BYTES = 8
        const val SPARE_BYTES = 128
    }
}
