package org.cooperllm.runtime.zo

import org.junit.Assert.assertArrayEquals
import org.junit.Test

class PhiloxTest {
    /** The known answers that Random123 publishes for philox4x32 with ten rounds. */
    @Test
    fun `equals the published known answers`() {
        assertArrayEquals(words(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8), bijection(words(0, 0, 0, 0), 0))
        assertArrayEquals(
            words(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd),
            bijection(words(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff), -1),
        )
        assertArrayEquals(
            words(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1),
            bijection(words(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), 0x299f31d0a4093822),
        )
    }

    private fun bijection(
        counter: IntArray,
        key: Long,
    ): IntArray {
        val out = IntArray(4)
        Philox.bijection(counter[0], counter[1], counter[2], counter[3], key, out, 0)
        return out
    }

    private fun words(vararg values: Long) = IntArray(values.size) { values[it].toInt() }
}
