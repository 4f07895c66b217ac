package org.cooperllm.runtime.plan

import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.runtime.zo.Golden
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.Random

class PlanTest {
    private val plan = Plan()

    @Test
    fun `equals the C++ planner, run by run`() {
        for (case in Golden("plans").cases) {
            val labels = case["labels"].jsonArray.map { row -> row.jsonArray.map { it.jsonPrimitive.int } }
            build(labels)
            val expected =
                case["runs"].jsonArray.map { run ->
                    val (position, label, evaluations) = run.jsonArray
                    val which = evaluations.jsonArray.map { it.jsonPrimitive.int }
                    Triple(position.jsonPrimitive.int, label.jsonPrimitive.int, which)
                }
            assertEquals(expected, List(plan.runs) { Triple(plan.position(it), plan.label(it), evaluations(it)) })
        }
    }

    /** Replays a plan with what a program has: each position's state lasts until that position runs again. */
    @Test
    fun `no segment runs twice on one input, and no state is gone when it is needed`() {
        val random = Random(1)
        repeat(200) {
            val positions = 1 + random.nextInt(6)
            val labels = List(1 + random.nextInt(20)) { List(positions) { random.nextInt(5) - 2 } }
            build(labels)
            val entering = Array<List<Int>>(positions + 1) { emptyList() }
            val seen = mutableSetOf<List<Int>>()
            val answered = mutableMapOf<Int, List<Int>>()
            for (run in 0 until plan.runs) {
                val position = plan.position(run)
                val state = entering[position] + plan.label(run)
                assertTrue(seen.add(state))
                entering[position + 1] = state
                if (position == positions - 1) evaluations(run).forEach { e -> answered[e] = state }
            }
            assertEquals(labels, labels.indices.map { answered[it] })
            assertEquals(labels.flatMap { row -> row.indices.map { row.take(it + 1) } }.toSet(), seen)
        }
    }

    @Test
    fun `nothing is planned for no string`() {
        plan.build(IntArray(0), 0, 4)
        assertEquals(0, plan.runs)
    }

    private fun build(labels: List<List<Int>>) = plan.build(labels.flatten().toIntArray(), labels.size, labels[0].size)

    private fun evaluations(run: Int) = List(plan.evaluationCount(run)) { plan.evaluation(run, it) }
}
