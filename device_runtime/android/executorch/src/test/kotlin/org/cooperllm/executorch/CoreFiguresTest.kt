package org.cooperllm.executorch

import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.zo.Golden
import org.cooperllm.runtime.zo.Update
import org.cooperllm.runtime.zo.bits
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** The Kotlin core against the C++ core, on real programs. */
class CoreFiguresTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val golden = File(System.getProperty("golden.dir"))

    /** The committed figures are of another CPU, whose kernels may round a loss otherwise: rho within 2e-3. */
    @Test
    fun `golden figures of the toy program`() = compare(ProgramFile(File(golden, "toy.json")), golden, tolerance = 2e-3)

    @Test
    fun `the toy program, bit for bit`() {
        make()
        compare(ProgramFile(File(golden, "toy.json")), folder.root)
    }

    @Test
    fun `MiniLM with bottlenecks, bit for bit`() {
        make("--bottleneck")
        compare(ProgramFile(File(folder.root, "program.json")), folder.root)
    }

    /** Has the C++ core, on this CPU and with one thread as here, write its figures. */
    private fun make(vararg options: String) =
        Python.run(golden.parentFile.parentFile, "tests.golden.make_core", *options, folder.root.path)

    private fun compare(
        file: ProgramFile,
        figures: File,
        tolerance: Double = 0.0,
    ) {
        ExecuTorchProgram.open(file.program, 1).use { program ->
            val core = file.open(program)
            val cases = Golden("local_update", figures).cases.map { CoreCase(it, core) }
            for (case in cases) compare(case, core, tolerance)
        }
    }

    private fun compare(
        case: CoreCase,
        core: Core,
        tolerance: Double,
    ) {
        val golden = case.golden
        val batches = case.batches()
        val before = core.adapter.toArray()
        core.chain.counters.reset()
        val rho =
            if (case.isExact) {
                core.slopes(batches, case.directions, case.epsilon, case.objective.exitSegment)
            } else {
                core.measure(batches, case.directions, case.epsilon, case.objective).rho
            }
        val counters = core.chain.counters
        assertEquals(case.name, golden.text("embed_runs").toLong(), counters.embedRuns)
        assertEquals(case.name, golden.longs("segment_runs"), counters.segmentRuns.toList())
        assertEquals(case.name, golden.longs("auxiliary_runs"), counters.auxiliaryRuns.toList())
        assertEquals(case.name, before.bits(), core.adapter.toArray().bits())
        assertArrayEquals(case.name, golden.doubles("rho"), rho, tolerance)
        if (!case.isExact) checkStreamed(case, core, batches, rho)
        val evaluation = core.evaluate(batches, case.objective)
        assertEquals(case.name, golden.double("loss_sum"), evaluation.lossSum, tolerance)
        assertEquals(case.name, golden.double("count"), evaluation.count, 0.0)
        assertEquals(case.name, golden.int("correct").toLong(), evaluation.correct)
        if ("adapter_after" in golden) checkUpdate(case, core)
    }

    /** In streaming order: the same bits, with the same runs of segments. */
    private fun checkStreamed(
        case: CoreCase,
        core: Core,
        batches: List<Batch>,
        rho: DoubleArray,
    ) {
        core.chain.counters.reset()
        val measurement = core.begin(batches, case.directions, case.epsilon, case.objective)
        for (segment in measurement.segments) measurement.advance()
        assertEquals(case.name, rho.bits(), measurement.finish().rho.bits())
        val counters = core.chain.counters
        assertEquals(case.name, case.golden.longs("segment_runs"), counters.segmentRuns.toList())
        assertEquals(case.name, case.golden.longs("auxiliary_runs"), counters.auxiliaryRuns.toList())
    }

    private fun checkUpdate(
        case: CoreCase,
        core: Core,
    ) {
        val golden = case.golden
        val coefficients = golden.doubleList("coefficients")
        val update = Update(case.epsilon, golden.long("update_seed"), case.directions, coefficients)
        assertEquals(case.name, golden.int("clamped"), core.update(update))
        assertEquals(case.name, golden.floats("adapter_after").bits(), core.adapter.toArray().bits())
    }
}
