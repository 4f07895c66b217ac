package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.Golden
import org.cooperllm.runtime.zo.bits
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException

/** Where hidden states are kept: their bits are those of the Python device's, and nothing of the file is left behind. */
class StateStoreTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val golden = Golden("states").cases.single()
    private val values = golden.floats("values")
    private val width = golden.int("width")

    @Test
    fun `halves are rounded as NumPy rounds them`() {
        assertEquals(golden.halfWords("halves").toList(), values.map { HalfFloats.toBits(it) })
    }

    @Test
    fun `every half is its own nearest, and widens as its neighbours say`() {
        var before = Float.NEGATIVE_INFINITY
        for (bits in 0..0x7C00) {
            val value = HalfFloats.fromBits(bits)
            assertEquals(bits, HalfFloats.toBits(value))
            assertEquals(bits or 0x8000, HalfFloats.toBits(-value))
            assertTrue(value > before)
            before = value
        }
        assertTrue(HalfFloats.fromBits(HalfFloats.toBits(Float.NaN)).isNaN())
        assertEquals(HalfFloats.MOST, HalfFloats.fromBits(0x7BFF))
    }

    @Test
    fun `a file gives back what the Python device's does, bit for bit`() {
        InFile(values.size / width, width, temporary.root).use { file ->
            file.write(0, values.size / width, values)
            val back = FloatArray(values.size)
            file.read(0, values.size / width, back)
            assertEquals(golden.floats("back").bits(), back.bits())
            val one = FloatArray(width)
            file.read(7, 1, one)
            assertEquals(golden.floats("back").slice(7 * width until 8 * width).map { it.toRawBits() }, one.bits())
        }
    }

    @Test
    fun `memory gives back the same bits`() {
        InMemory(values.size / width, width).use { memory ->
            memory.write(2, 3, values)
            val back = FloatArray(3 * width)
            memory.read(2, 3, back)
            assertEquals(values.take(3 * width).map { it.toRawBits() }, back.bits())
        }
    }

    @Test
    fun `the file has no name`() {
        InFile(100, width, temporary.root).use { file ->
            file.write(0, 1, FloatArray(width) { 1f })
            assertArrayEquals(emptyArray<File>(), temporary.root.listFiles())
        }
    }

    @Test
    fun `no room is told at once, and is none for states`() {
        assertThrows(IOException::class.java) { InFile(Int.MAX_VALUE, 1 shl 20, temporary.root) }
        assertArrayEquals(emptyArray<File>(), temporary.root.listFiles())
    }
}
