package org.cooperllm.runtime.zo

import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.DirectionOutOfRange
import org.cooperllm.runtime.UnsupportedTask
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Every case of the files that NumPy, C++ and this library are held to, bit for bit. */
class GoldenTest {
    @Test
    fun `philox blocks, signs and half-words`() {
        for (case in Golden("philox").cases) {
            if ("counter" in case) {
                val counter = words(case, "counter")
                val key = words(case, "key")
                val seed = key[0].toLong() and 0xFFFFFFFFL or (key[1].toLong() shl 32)
                val out = IntArray(4)
                Philox.bijection(counter[0], counter[1], counter[2], counter[3], seed, out, 0)
                assertArrayEquals(words(case, "output"), out)
                continue
            }
            val count = case.int("count")
            val noise = Noise(count)
            val signs = FloatArray(count)
            noise.fillSigns(case.long("seed"), case.long("start"), count, signs)
            assertEquals(case.bytes("signs", "int8").map { it.toFloat() }, signs.toList())
            val halves = IntArray(count)
            noise.fillHalfWords(case.long("seed"), case.long("start"), count, halves)
            assertArrayEquals(case.halfWords("half_words"), halves)
        }
    }

    @Test
    fun `grid exponents, roundings and checks`() {
        for (case in Golden("grid").cases) {
            val exponent = case.int("exponent")
            if ("max_magnitude" in case) {
                assertEquals(exponent, Grid.chooseExponent(case.double("max_magnitude")))
            } else if ("rounded" in case) {
                val values = case.floats("values")
                assertEquals(ZoStatus.OK, Grid.round(values, exponent))
                assertEquals(case.floats("rounded").bits(), values.bits())
            } else {
                val adapter = FloatVector.of(case.floats("adapter"))
                val status = Grid.check(adapter, 0, adapter.count, exponent)
                assertEquals(case.text("name"), case.text("status"), status.name)
            }
        }
    }

    @Test
    fun `layouts and their hashes`() {
        for (case in Golden("layout").cases) {
            val layout = layoutOf(case)
            assertEquals(case.int("parameters"), layout.parameters)
            assertEquals(case.text("sha256"), layout.sha256())
        }
    }

    @Test
    fun `directions, their sums and what they move`() {
        for (case in Golden("directions").cases) {
            val name = case.text("name")
            val slice = Slice(case)
            val direction = slice.direction(case)
            val epsilon = case.double("epsilon")
            val sums = RoundingSums()
            val kernels = DirectionKernels()
            val status = kernels.check(slice.tensor, direction, epsilon, sums)
            assertEquals(name, case.text("status"), status.name)
            if (status != ZoStatus.OK) {
                assertRefused(status) { slice.adapter.check(direction, epsilon) }
                continue
            }
            assertEquals(name, case.doubles("lanes_error").bits(), sums.errorLanes.bits())
            assertEquals(name, case.doubles("lanes_norm").bits(), sums.normLanes.bits())
            assertEquals(name, case.text("judgement") == "OK", sums.isFaithful())
            val before = slice.values()
            slice.adapter.perturb(direction, epsilon, +1)
            assertEquals(name, case.floats("plus").bits(), slice.values().bits())
            slice.adapter.perturb(direction, epsilon, -2)
            assertEquals(name, case.floats("minus").bits(), slice.values().bits())
            slice.adapter.perturb(direction, epsilon, +1)
            assertEquals(name, before.bits(), slice.values().bits())
            slice.set(FloatArray(before.size))
            slice.adapter.perturb(direction, epsilon, +1)
            val steps = slice.values().map { Math.scalb(it, case.int("exponent")).toInt() }
            assertEquals(name, case.ints("k").toList(), steps)
        }
    }

    @Test
    fun updates() {
        for (case in Golden("updates").cases) {
            val slice = Slice(case)
            val update =
                Update(
                    case.double("epsilon"),
                    case.long("update_seed"),
                    case.list("directions").map(slice::direction),
                    case.doubleList("coefficients"),
                    slice.guides(case),
                    intArrayOf(Slice.SEGMENT),
                )
            if (case.text("status") != "OK") {
                val before = slice.values().bits()
                assertRefused(ZoStatus.valueOf(case.text("status"))) { slice.adapter.apply(update) }
                assertEquals(before, slice.values().bits())
                continue
            }
            assertEquals(case.text("name"), case.int("clamped"), slice.adapter.apply(update))
            assertEquals(case.text("name"), case.floats("after").bits(), slice.values().bits())
        }
    }

    @Test
    fun deltas() {
        val layouts = Golden("layout").cases.map(::layoutOf)
        for (case in Golden("delta").cases) {
            val layout = layouts[case.int("layout")]
            val adapter = FloatVector.of(case.floats("before"))
            Grid.checkAdapter(adapter, layout)
            AdapterVersion.applyDelta(case.bytes("delta", "uint8"), adapter, layout)
            assertEquals(case.floats("after").bits(), adapter.toArray().bits())
        }
    }

    private fun assertRefused(
        status: ZoStatus,
        action: () -> Unit,
    ) {
        val error = assertThrows(CooperLLMError::class.java, action)
        val expected =
            when (status) {
                ZoStatus.OUT_OF_RANGE -> DirectionOutOfRange::class
                ZoStatus.NOT_FINITE -> BadArtifact::class
                else -> UnsupportedTask::class
            }
        assertEquals(expected, error::class)
    }

    private fun words(
        case: GoldenCase,
        name: String,
    ): IntArray = case[name].jsonArray.map { it.jsonPrimitive.long.toInt() }.toIntArray()

    private fun layoutOf(case: GoldenCase): Layout = GoldenLayouts.of(case.list("tensors"))
}

/** The layouts of layout.json. */
internal object GoldenLayouts {
    fun of(tensors: List<GoldenCase>): Layout =
        Layout(
            tensors.map { tensor ->
                val shape = tensor["shape"].jsonArray.map { it.jsonPrimitive.int }.toIntArray()
                val place = tensor.int("offset")
                LayoutTensor(tensor.text("name"), tensor.int("segment"), shape, place, tensor.int("exponent"))
            },
        )
}

/** A golden slice: the second tensor of an adapter that begins with padding, active alone. */
internal class Slice(
    case: GoldenCase,
) {
    private val start = case.int("start")
    private val count = case.floats("adapter").size
    private val layout =
        Layout(
            listOf(
                LayoutTensor("before", 0, intArrayOf(start), 0, 20),
                LayoutTensor("slice", SEGMENT, intArrayOf(count), start, case.int("exponent")),
            ),
        )
    val tensor: LayoutTensor = layout.tensors.last()
    val adapter: Adapter = Adapter(layout, whole(case.floats("adapter")))

    fun values(): FloatArray = adapter.values.toArray().copyOfRange(start, start + count)

    fun set(values: FloatArray) = adapter.values.write(start, values, count)

    fun direction(case: GoldenCase): Direction =
        Direction(
            case.long("seed"),
            case.double("isotropic_scale"),
            if (case.has("scale")) whole(case.floats("scale")) else null,
            guides(case),
            intArrayOf(SEGMENT),
        )

    fun guides(case: GoldenCase): List<GuideTerm> =
        case.list("guides").map {
            val values = FloatVector.of(it.floats("values"))
            GuideTerm(Guide.of(layout, mapOf(SEGMENT to values)), it.double("coefficient"))
        }

    private fun whole(values: FloatArray): FloatVector =
        FloatVector.allocate(start + count).also { it.write(start, values, count) }

    companion object {
        const val SEGMENT: Int = 1
    }
}
