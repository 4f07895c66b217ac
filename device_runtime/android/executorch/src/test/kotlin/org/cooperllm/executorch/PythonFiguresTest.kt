package org.cooperllm.executorch

import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.cooperllm.protos.Direction
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Step
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.session.Engine
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.Expansion
import org.cooperllm.runtime.session.Limits
import org.cooperllm.runtime.session.Moves
import org.cooperllm.runtime.session.Personal
import org.cooperllm.runtime.session.Personalising
import org.cooperllm.runtime.session.Practice
import org.cooperllm.runtime.session.PrivateExamples
import org.cooperllm.runtime.session.SegmentScores
import org.cooperllm.runtime.text.HuggingFaceTokens
import org.cooperllm.runtime.update.Examples
import org.cooperllm.runtime.update.LocalUpdate
import org.cooperllm.runtime.zo.Golden
import org.cooperllm.runtime.zo.GoldenCase
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** The Kotlin device against the Python device, on the toy bundle: see tests/golden/make_device.py. */
class PythonFiguresTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val golden = File(System.getProperty("golden.dir"))

    /** The committed figures are of another CPU, whose kernels may round a loss otherwise. */
    @Test
    fun `golden figures of the toy bundle`() = compare(golden, tolerance = 2e-3)

    @Test
    fun `the toy bundle, bit for bit`() {
        Python.run(golden.parentFile.parentFile, "tests.golden.make_device", temporary.root.path)
        compare(temporary.root)
    }

    private fun compare(
        figures: File,
        tolerance: Double = 0.0,
    ) {
        val case = Golden("device", figures).cases.single()
        val bundle = bundle()
        for (kept in case.list("kept")) {
            val room = if (kept.text("in_file").toBoolean()) Limits(maxStateBytes = 0) else Limits()
            with(case, bundle, room) { engine, private -> compareKept(kept, engine, private, tolerance) }
        }
        for (personal in case.list("personal")) {
            with(case, bundle) { engine, private -> comparePersonal(personal, engine, private, tolerance) }
        }
        with(case, bundle) { engine, private ->
            val chosen = LocalUpdate.drawBatch(BATCH_SEED, SCORED_EXAMPLES, private.train.count)
            val scores = SegmentScores.of(engine.core, private.train.batches(chosen))
            // CKA sums in another order than NumPy's matrix products do.
            assertArrayEquals(case.doubleList("segment_scores"), scores.toDoubleArray(), maxOf(tolerance, 1e-12))
            val found = LocalUpdate.evaluate(engine.core, engine.exampleSet(examples(case)))
            val expected = case.case("evaluation")
            assertEquals(expected.double("loss"), found.lossSum / found.count, tolerance)
            assertEquals(expected.double("accuracy"), found.correct / found.count, 0.0)
            assertEquals(expected.double("count"), found.count, 0.0)
        }
    }

    private fun compareKept(
        kept: GoldenCase,
        engine: Engine,
        private: PrivateExamples,
        tolerance: Double,
    ) {
        val first = kept.int("first_segment")
        val name = "from segment $first, in a file: ${kept.text("in_file")}"
        for (runs in kept.longs("runs")) {
            val before = engine.work
            val train: Examples = private.trainFrom(first, engine.core)
            val task = Expansion(null, emptyMap(), engine.bundle.layout).task(task(first, engine.head))
            val found = LocalUpdate(engine.core, { 0.0 }).run(task, train)
            assertArrayEquals(name, kept.doubleList("scalars"), found.scalars.toDoubleArray(), tolerance)
            assertEquals(name, runs, (engine.work - before).runs.sum())
        }
    }

    private fun comparePersonal(
        case: GoldenCase,
        engine: Engine,
        private: PrivateExamples,
        tolerance: Double,
    ) {
        val moves = Moves.valueOf(case.text("moves").uppercase())
        val practice = Practice(steps = STEPS, directions = DIRECTIONS, batchExamples = 16, moves = moves)

        fun go(before: Personal?) = Personalising(engine, practice, { true }).run(private, before)
        val (last, found) = go(go(null).first)
        assertArrayEquals(
            case.doubleList("losses"),
            doubleArrayOf(found.lossBefore, found.lossAfter),
            tolerance * LOSSES_APART,
        )
        val heldOut = doubleArrayOf(checkNotNull(found.heldOutLossBefore), checkNotNull(found.heldOutLossAfter))
        assertArrayEquals(case.doubleList("held_out_losses"), heldOut, tolerance * LOSSES_APART)
        assertEquals(case.text("kept").toBoolean(), found.isKept)
        val bytes = case.bytes("personal", "int8")
        assertNotNull(Personal.fromBytes(bytes, engine.bundle.sha256, engine.bundle.layout))
        if (tolerance == 0.0) assertArrayEquals("what Python would have written", bytes, last.toBytes())
    }

    private fun task(
        first: Int,
        head: Int,
    ): DirectionsTask {
        val direction =
            Direction
                .newBuilder()
                .setSeed(5)
                .setCount(DIRECTIONS)
                .setIsotropicScale(1.0)
        val step =
            Step
                .newBuilder()
                .setBatchSeed(BATCH_SEED)
                .setBatchExamples(11)
                .addDirections(direction)
        val task = DirectionsTask.newBuilder().setEpsilon(0.01).addAllActiveSegments(first..head)
        return task.addSteps(step).build()
    }

    private fun with(
        case: GoldenCase,
        bundle: Bundle,
        limits: Limits = Limits(),
        action: (Engine, PrivateExamples) -> Unit,
    ) = Engine(bundle, ExecuTorchProgram, ::HuggingFaceTokens, 1, limits, temporary.root).use { engine ->
        engine.privateExamples(examples(case)).use { action(engine, it) }
        assertTrue(
            engine.core.chain.loadedMethods
                .isNotEmpty(),
        )
    }

    private fun examples(case: GoldenCase): List<Example> =
        case["examples"].jsonArray.map { pair ->
            val (text, label) = pair.jsonArray.map { it.jsonPrimitive.content }
            Example(text, label)
        }

    /** The toy bundle, whole: the golden one lacks the program. */
    private fun bundle(): Bundle {
        val folder = temporary.newFolder()
        File(golden, "bundle").copyRecursively(folder, overwrite = true)
        File(golden, "toy.pte").copyTo(File(folder, "program.pte"))
        return Bundle.open(folder)
    }

    private companion object {
        const val BATCH_SEED = 7L
        const val SCORED_EXAMPLES = 24
        const val STEPS = 24
        const val DIRECTIONS = 4

        /** A last bit decides where a walk goes on; the losses at its end are close all the same. */
        const val LOSSES_APART = 50
    }
}
