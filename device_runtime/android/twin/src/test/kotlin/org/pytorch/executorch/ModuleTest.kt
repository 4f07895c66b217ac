package org.pytorch.executorch

import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Test
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer

/** What android code may rely on in the AAR, seen on the toy program of tests/golden (4 rows, width 16). */
class ModuleTest {
    private val path = System.getProperty("golden.dir") + "/toy.pte"
    private val module = Module.load(path, Module.LOAD_MODE_MMAP, 1)

    @After
    fun close() = module.destroy()

    @Test
    fun `has the program's methods`() {
        assertEquals(setOf("embed", "segment_0", "segment_1", "head"), module.methods.toSet())
    }

    @Test
    fun `an output wraps memory that lasts until its method runs again, whatever else runs`() {
        val (first, mask) = embed(1)
        val copy = first.dataAsFloatArray
        val adapter = Tensor.fromBlob(floats(32), longArrayOf(16, 2))
        val back = Tensor.fromBlob(floats(32), longArrayOf(2, 16))
        val hidden = module.execute("segment_0", *values(first, mask, adapter, back))[0].toTensor()
        module.execute("segment_1", *values(hidden, mask, adapter, back))
        assertArrayEquals(copy, first.dataAsFloatArray, 0f)
        val (second, _) = embed(2)
        assertArrayEquals(second.dataAsFloatArray, first.dataAsFloatArray, 0f)
        assertFalse(copy.contentEquals(first.dataAsFloatArray))
    }

    @Test
    fun `an input that is changed in place is what the next run sees`() {
        val (hidden, mask) = embed(3)
        val down = floats(32)
        val up = floats(32)
        val inputs =
            values(
                hidden,
                mask,
                Tensor.fromBlob(down, longArrayOf(16, 2)),
                Tensor.fromBlob(up, longArrayOf(2, 16)),
            )
        val before = module.execute("segment_0", *inputs)[0].toTensor().dataAsFloatArray
        for (i in 0 until 32) down.put(i, 0.5f)
        for (i in 0 until 32) up.put(i, 0.5f)
        assertFalse(before.contentEquals(module.execute("segment_0", *inputs)[0].toTensor().dataAsFloatArray))
    }

    @Test
    fun `shapes are those of the inputs`() {
        assertArrayEquals(longArrayOf(4, 8, 16), embed(1)[0].shape())
        assertArrayEquals(longArrayOf(4, 16, 16), embed(1, 16)[0].shape())
        assertEquals(DType.FLOAT, embed(1)[0].dtype())
    }

    @Test
    fun `what cannot run is an exception`() {
        val wrong = Tensor.fromBlob(floats(32), longArrayOf(16, 2))
        assertThrows(ExecutorchRuntimeException::class.java) { module.execute("segment_0", *values(wrong)) }
        assertThrows(ExecutorchRuntimeException::class.java) { module.execute("none", *values(wrong)) }
        assertThrows(IllegalArgumentException::class.java) { Module.load("$path.none") }
        val broken = File.createTempFile("broken", ".pte")
        broken.writeBytes(ByteArray(4096))
        assertThrows(ExecutorchRuntimeException::class.java) { Module.load(broken.path, Module.LOAD_MODE_MMAP, 1) }
        broken.delete()
        module.destroy()
        assertThrows(IllegalStateException::class.java) { embed(1) }
    }

    @Test
    fun `a buffer must be direct, native and exactly as long as its shape`() {
        val wrong = IllegalArgumentException::class.java
        assertThrows(wrong) { Tensor.fromBlob(floats(32), longArrayOf(31)) }
        assertThrows(wrong) { Tensor.fromBlob(FloatBuffer.allocate(32), longArrayOf(32)) }
        val foreign = ByteBuffer.allocateDirect(128).order(ByteOrder.BIG_ENDIAN).asFloatBuffer()
        assertThrows(wrong) { Tensor.fromBlob(foreign, longArrayOf(32)) }
        val whole = Tensor.fromBlob(longs(1) { 0 }, longArrayOf(1))
        assertThrows(IllegalStateException::class.java) { whole.dataAsFloatArray }
    }

    private fun embed(
        seed: Int,
        tokens: Int = 8,
    ): List<Tensor> {
        val shape = longArrayOf(4, tokens.toLong())
        val ids = Tensor.fromBlob(longs(4 * tokens) { (seed * 7L + it) % 32 }, shape)
        val mask = Tensor.fromBlob(longs(4 * tokens) { 1 }, shape)
        return module.execute("embed", *values(ids, mask)).map { it.toTensor() }
    }

    private fun values(vararg tensors: Tensor) = Array(tensors.size) { EValue.from(tensors[it]) }

    private fun bytes(size: Int) = ByteBuffer.allocateDirect(size).order(ByteOrder.nativeOrder())

    private fun floats(count: Int): FloatBuffer = bytes(4 * count).asFloatBuffer()

    private fun longs(
        count: Int,
        value: (Int) -> Long,
    ): LongBuffer = bytes(8 * count).asLongBuffer().also { for (i in 0 until count) it.put(i, value(i)) }
}
