package org.cooperllm.executorch

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.ChainShape
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.update.Objective
import org.cooperllm.runtime.zo.Direction
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.GoldenCase
import org.cooperllm.runtime.zo.Guide
import org.cooperllm.runtime.zo.GuideTerm
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor
import java.io.File

/** What tests/golden/make_core.py says of a program. */
internal class ProgramFile(
    file: File,
) {
    private val fields = Json.parseToJsonElement(file.readText()).jsonObject

    /** Where the program lies; beside the file and of its name where it says nothing. */
    val program = fields["program"]?.let { File(it.jsonPrimitive.content) } ?: File(file.path.replace(".json", ".pte"))
    val maxTokens: Int get() = number("max_tokens")

    fun open(program: Program): Core {
        val shape =
            ChainShape(
                number("segments"),
                number("batch_examples"),
                maxTokens,
                number("hidden_size"),
                number("classes"),
            )
        return Core(program, shape, Layout(fields.getValue("layout").jsonArray.map { tensor(it.jsonObject) }))
    }

    private fun number(name: String): Int = fields.getValue(name).jsonPrimitive.int

    private fun tensor(fields: JsonObject): LayoutTensor {
        fun number(name: String) = fields.getValue(name).jsonPrimitive.int
        val shape = fields.getValue("shape").jsonArray.map { it.jsonPrimitive.int }
        val name = fields.getValue("name").jsonPrimitive.content
        return LayoutTensor(name, number("segment"), shape.toIntArray(), number("offset"), number("exponent"))
    }
}

/** A case of local_update.json, ready to be asked. */
internal class CoreCase(
    val golden: GoldenCase,
    private val core: Core,
) {
    val name = golden.text("name")
    val epsilon = golden.double("epsilon")
    val objective = Objective(golden.int("exit_segment"), golden.double("global_weight"))
    val isExact = golden.text("exact").toBoolean()
    private val scale = if (golden.has("scale")) FloatVector.of(golden.floats("scale")) else null
    private val guides =
        golden["guides"].jsonArray.indices.map { guide ->
            val slices = golden.lists("guides")[guide]
            Guide.of(core.chain.layout, slices.associate { it.int("segment") to FloatVector.of(it.floats("values")) })
        }
    val directions: List<Direction> = golden.list("directions").map { direction(it) }

    /** The adapter is that of the case afterwards. */
    fun batches(): List<Batch> {
        val values = golden.floats("adapter")
        core.adapter.write(0, values, values.size)
        val first = golden.int("first_segment")
        return golden.list("batches").map { batch(it) }.map {
            if (first == 0) it else it.entering(first, core.hidden(it, first))
        }
    }

    private fun batch(case: GoldenCase) =
        Batch(
            case.ints("input_ids").toLongs(),
            LongArray(case.bytes("attention_mask", "int8").size) { case.bytes("attention_mask", "int8")[it].toLong() },
            case.ints("labels").toLongs(),
            case.doubles("weights"),
            case.int("tokens"),
        )

    private fun direction(case: GoldenCase): Direction {
        val terms =
            case["guides"].jsonArray.map { term ->
                val (guide, coefficient) = term.jsonArray
                GuideTerm(guides[guide.jsonPrimitive.int], coefficient.jsonPrimitive.double)
            }
        val active = case["active_segments"].jsonArray.map { it.jsonPrimitive.int }
        return Direction(
            case.long("seed"),
            case.double("isotropic_scale"),
            scale,
            terms,
            active.toIntArray(),
            case.int("boundary"),
            case.long("prefix_seed"),
        )
    }
}

private fun IntArray.toLongs() = LongArray(size) { this[it].toLong() }
