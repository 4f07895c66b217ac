package org.cooperllm.runtime.session

import org.junit.Assert.assertEquals
import org.junit.Test

class SegmentWorkTest {
    @Test
    fun `a mean is of what was run since, and nothing run takes no time`() {
        val before = SegmentWork(listOf(1, 2, 0), listOf(5_000_000, 1, 0))
        val work = SegmentWork(listOf(5, 2, 1), listOf(13_000_000, 1, 250_000)) - before
        assertEquals(SegmentWork(listOf(4, 0, 1), listOf(8_000_000, 0, 250_000)), work)
        assertEquals(listOf(2.0, 0.0, 0.25), work.runMs)
    }
}
