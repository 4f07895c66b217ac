package org.cooperllm.runtime.plan

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.runtime.zo.Golden
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.Random

class LevelPlanTest {
    private val plan = LevelPlan()

    @Test
    fun `equals the C++ planner, run by run and slot by slot`() {
        for (case in Golden("plans").cases) {
            build(case["labels"].jsonArray.map { numbers(it) })
            val expected =
                case["levels"].jsonArray.map { run ->
                    val (position, label, from, to) = numbers(JsonArray(run.jsonArray.take(4)))
                    listOf(position, label, from, to) to numbers(run.jsonArray[4])
                }
            val found =
                List(plan.runs) {
                    listOf(plan.position(it), plan.label(it), plan.fromSlot(it), plan.toSlot(it)) to evaluations(it)
                }
            assertEquals(expected, found)
        }
    }

    /** Replays a plan: every slot holds the labels that made it, and every state of a level has one. */
    @Test
    fun `no segment runs twice on one input, and no state is gone when it is needed`() {
        val random = Random(1)
        repeat(200) {
            val positions = 1 + random.nextInt(6)
            val labels = List(1 + random.nextInt(20)) { List(positions) { random.nextInt(5) - 2 } }
            build(labels)
            val slots = Array<List<Int>>(plan.slots) { emptyList() }
            val seen = mutableSetOf<List<Int>>()
            val answered = mutableMapOf<Int, List<Int>>()
            for (run in 0 until plan.runs) {
                val before = slots[plan.fromSlot(run)]
                assertEquals(plan.position(run), before.size)
                val state = before + plan.label(run)
                assertTrue(seen.add(state))
                if (state.size == positions) evaluations(run).forEach { e -> answered[e] = state }
                if (state.size < positions) slots[plan.toSlot(run)] = state
            }
            assertEquals(labels, labels.indices.map { answered[it] })
            assertEquals(labels.flatMap { row -> row.indices.map { row.take(it + 1) } }.toSet(), seen)
            assertEquals(labels.map { it.dropLast(1) }.toSet().size, plan.slots)
        }
    }

    @Test
    fun `nothing is planned for no string`() {
        plan.build(IntArray(0), 0, 4)
        assertEquals(0, plan.runs)
        assertEquals(1, plan.slots)
    }

    private fun numbers(array: JsonElement) = array.jsonArray.map { it.jsonPrimitive.int }

    private fun build(labels: List<List<Int>>) = plan.build(labels.flatten().toIntArray(), labels.size, labels[0].size)

    private fun evaluations(run: Int) = List(plan.evaluationCount(run)) { plan.evaluation(run, it) }
}
