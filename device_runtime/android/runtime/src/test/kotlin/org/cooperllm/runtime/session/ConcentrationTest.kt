package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.protos.Direction
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.GuideTerm
import org.cooperllm.protos.Step
import org.cooperllm.runtime.TaskRefused
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Golden
import org.cooperllm.runtime.zo.GoldenCase
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor
import org.junit.Assert.assertEquals
import org.junit.Test

/** Where directions lie, as the Python device says: see tests/golden/make_concentration.py. */
class ConcentrationTest {
    private val golden = Golden("concentration").cases
    private val vectors = golden[0].case("vectors")
    private val layout = layout()
    private val head = layout.segments.last()

    @Test
    fun `every golden case counts or is refused as in Python`() {
        val found = golden.drop(1).mapIndexed { number, case -> "$number: ${answer(case)}" }
        val expected = golden.drop(1).mapIndexed { number, case -> "$number: ${expected(case)}" }
        assertEquals(expected.joinToString("\n"), found.joinToString("\n"))
    }

    private fun expected(case: GoldenCase): String =
        if (case.text("status") == "OK") "${case.int("scalars")} ${case.int("head_scalars")}" else case.text("status")

    private fun answer(case: GoldenCase): String {
        val step = Step.newBuilder().setBatchExamples(8).addAllDirections(case.list("directions").map(::direction))
        val task =
            DirectionsTask
                .newBuilder()
                .setEpsilon(0.01)
                .addAllActiveSegments(layout.segments)
                .addSteps(step)
        val guides =
            task
                .getSteps(0)
                .directionsList
                .flatMap { it.guidesList }
                .map { it.guideSha256 }
                .distinct()
        val slices = guides.associateWith { slicesOf(vectors.floats(it.toStringUtf8().take(2))) }
        val scale = case.text("scale").takeIf { it.isNotEmpty() }?.let { FloatVector.of(vectors.floats(it)) }
        return try {
            val cost = Weighing.weigh(task.build(), Supplies(scale, slices), layout, head)
            "${cost.scalars} ${cost.headScalars}"
        } catch (refusal: TaskRefused) {
            refusal.status
        }
    }

    private fun direction(case: GoldenCase): Direction {
        val message =
            Direction
                .newBuilder()
                .setSeed(case.long("seed"))
                .setCount(case.int("count"))
                .setIsotropicScale(case.double("isotropic_scale"))
                .addAllActiveSegments(case.longs("active_segments").map { it.toInt() })
                .setBoundary(case.int("boundary"))
                .setExact(case.text("exact").toBoolean())
        for (term in case["guides"].jsonArray) {
            val (name, coefficient) = term.jsonArray.map { it.jsonPrimitive }
            val guide = GuideTerm.newBuilder().setGuideSha256(ByteString.copyFromUtf8(name.content.repeat(16)))
            message.addGuides(guide.setCoefficient(coefficient.double))
        }
        return message.build()
    }

    private fun slicesOf(values: FloatArray): Slices =
        layout.segments.associateWith { segment ->
            val from = layout.segmentOffset(segment)
            FloatVector.of(values.copyOfRange(from, from + layout.segmentCount(segment)))
        }

    private fun layout(): Layout {
        var offset = 0
        val tensors =
            golden[0]["shapes"].jsonArray.mapIndexed { number, shape ->
                val (segment, count) = shape.jsonArray.map { it.jsonPrimitive.int }
                LayoutTensor("t$number", segment, intArrayOf(count), offset, 20).also { offset += count }
            }
        return Layout(tensors)
    }
}
