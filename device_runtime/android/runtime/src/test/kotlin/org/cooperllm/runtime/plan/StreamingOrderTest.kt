package org.cooperllm.runtime.plan

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.random.Random

/** The order of a step's directions: the cases of the Python device, and every order by brute force. */
class StreamingOrderTest {
    private fun sizes(
        state: Long,
        directions: Int,
        unit: Int = 1,
    ) = StreamingSizes(listOf(10, 30, 20), state, directions, unit = unit)

    @Test
    fun `by hand, as in Python`() {
        val cases =
            listOf(
                StreamingOrder.choose(sizes(5, 4), 90) to StreamingOrder(4, 90),
                StreamingOrder.choose(sizes(5, 4), 89) to StreamingOrder(3, 80),
                StreamingOrder.choose(sizes(100, 4), 60) to StreamingOrder(0, 60),
                StreamingOrder.choose(sizes(100, 4), 0) to StreamingOrder(0, 60),
                StreamingOrder.choose(sizes(1, 4), 0) to StreamingOrder(1, 52),
                StreamingOrder.choose(sizes(1, 8, unit = 3), 57) to StreamingOrder(3, 56),
                StreamingOrder.choose(sizes(1, 8, unit = 3), 54) to StreamingOrder(2, 54),
                StreamingOrder.choose(sizes(1, 8, unit = 3), 66) to StreamingOrder(8, 66),
                StreamingOrder.choose(StreamingSizes(emptyList(), 5, 4), 90) to StreamingOrder(0, 0),
                StreamingOrder.choose(StreamingSizes(listOf(40), 5, 4)) to StreamingOrder(4, 80),
            )
        for ((found, expected) in cases) assertEquals(expected, found)
    }

    @Test
    fun `the largest group that fits, or whichever order holds least`() {
        val random = Random(3)
        repeat(300) {
            val guides = List(1 + random.nextInt(8)) { random.nextLong(1000) }
            val sizes = StreamingSizes(guides, random.nextLong(400), 1 + random.nextInt(33), random.nextLong(50))
            val held = (1..sizes.directions).associateWith { StreamingOrder.streamedBytes(sizes, it) }
            val limit = random.nextLong(4000)
            val chosen = StreamingOrder.choose(sizes, limit)
            val fitting = held.filterValues { it <= limit }.keys
            val whole = StreamingOrder.wholeBytes(sizes)
            when {
                whole == 0L -> assertEquals(0, chosen.group)
                fitting.isNotEmpty() -> assertEquals(fitting.max(), chosen.group)
                whole <= limit -> assertEquals(0, chosen.group)
                else -> assertEquals(minOf(whole, held.values.min()), chosen.heldBytes)
            }
            val states = 2 * maxOf(1, chosen.group) * sizes.stateBytes + sizes.contextBytes
            val twoLargest = guides.sorted().takeLast(2).sum()
            if (chosen.group > 0) assertTrue(chosen.heldBytes - states <= twoLargest)
        }
    }
}
