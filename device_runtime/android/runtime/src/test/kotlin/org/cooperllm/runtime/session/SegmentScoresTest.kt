package org.cooperllm.runtime.session

import org.cooperllm.protos.ReportStatus
import org.cooperllm.runtime.LossNotFinite
import org.cooperllm.runtime.update.Batch
import org.cooperllm.runtime.update.SmallProgram
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import kotlin.math.sqrt

/** Linear CKA: the formula over columns, what counts, and what a device answers. The Python device's figures: executorch. */
class SegmentScoresTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val program = SmallProgram()
    private val core = SmallProgram.core(program)
    private val batches =
        List(4) { number ->
            SmallProgram.batch(LongArray(SmallProgram.ROWS * SmallProgram.TOKENS) { 1L + (7 * it + 31 * number) % 97 })
        }

    @Test
    fun `scores are the formula over columns, whatever the sum's order`() {
        val scores = SegmentScores.of(core, batches)
        val first = examples(batches, 0)
        val expected = List(SmallProgram.SEGMENTS) { cka(first, examples(batches, it + 1)) }
        assertEquals(SmallProgram.SEGMENTS, scores.size)
        for (segment in scores.indices) assertEquals(expected[segment], scores[segment], 1e-9)
        assertTrue(scores.all { it > 0.5 && it < 1.0 })
        assertTrue(scores[2] < scores[0])
    }

    @Test
    fun `rows of weight 0 say nothing, and neither do examples that are all the same`() {
        val padded = batches.map { Batch(it.inputIds, it.attentionMask, it.labels, doubleArrayOf(1.0, 0.0), it.tokens) }
        val swapped = padded.map { batch -> batch.copyIds { if (it < SmallProgram.TOKENS) batch.inputIds[it] else 5L } }
        assertEquals(SegmentScores.of(core, padded), SegmentScores.of(core, swapped))
        val same = batches.map { batch -> batch.copyIds { 3L } }
        assertEquals(List(SmallProgram.SEGMENTS) { 0.0 }, SegmentScores.of(core, same))
    }

    @Test
    fun `one segment is loaded at a time`() {
        val loaded = mutableListOf<Int>()
        program.beforeRun = { loaded += (core.chain.loadedMethods - "embed").size }
        SegmentScores.of(core, batches)
        assertEquals(1, loaded.maxOrNull())
        assertEquals(emptySet<String>(), core.chain.loadedMethods)
    }

    @Test
    fun `a state that is not a number is told`() {
        core.adapter.write(0, FloatArray(core.adapter.count) { Float.NaN }, core.adapter.count)
        assertThrows(LossNotFinite::class.java) { SegmentScores.of(core, batches) }
    }

    @Test
    fun `a device answers each as a scalar of its round, once the batch is large enough`() {
        World(temporary.newFolder()).use { world ->
            world.turn(world.scores(1, 24, world.version()))
            val report = world.cloud.reports.single()
            assertEquals(2, report.segmentScoresCount)
            assertEquals(24, report.examples)
            assertEquals(mapOf("1" to listOf(2, 0)), world.store.state.disclosed)
            val told =
                world.store.state.disclosures
                    .single()
            assertEquals(listOf<Any>("score_segments", 2, 0), listOf(told.kind, told.scalars, told.headScalars))
            world.turn(world.scores(2, 7, world.version(isHeld = true)))
            val refused = ReportStatus.REPORT_STATUS_REFUSED_DISCLOSURE_BUDGET
            assertEquals(refused, world.cloud.reports[1].status)
        }
    }

    private fun Batch.copyIds(id: (Int) -> Long) =
        Batch(LongArray(inputIds.size, id), attentionMask, labels, weights, tokens)

    /** Every example's mean hidden state. */
    private fun examples(
        batches: List<Batch>,
        segment: Int,
    ): List<DoubleArray> =
        batches.flatMap { batch ->
            val states = core.hidden(batch, segment).toArray()
            List(SmallProgram.ROWS) { row ->
                DoubleArray(SmallProgram.WIDTH) { column ->
                    (0 until SmallProgram.TOKENS)
                        .map { states[((row * SmallProgram.TOKENS) + it) * SmallProgram.WIDTH + column].toDouble() }
                        .average()
                }
            }
        }

    /** ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred columns. */
    private fun cka(
        x: List<DoubleArray>,
        y: List<DoubleArray>,
    ): Double = norm(x, y) / sqrt(norm(x, x) * norm(y, y))

    private fun norm(
        x: List<DoubleArray>,
        y: List<DoubleArray>,
    ): Double {
        fun centred(of: List<DoubleArray>): List<DoubleArray> {
            val means = DoubleArray(of[0].size) { column -> of.map { it[column] }.average() }
            return of.map { row -> DoubleArray(row.size) { row[it] - means[it] } }
        }
        val (a, b) = centred(x) to centred(y)
        return a[0].indices.sumOf { i ->
            b[0].indices.sumOf { j -> a.indices.sumOf { a[it][i] * b[it][j] }.let { it * it } }
        }
    }
}
