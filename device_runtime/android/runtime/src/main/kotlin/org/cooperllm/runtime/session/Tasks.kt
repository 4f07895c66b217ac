package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.EvaluateTask
import org.cooperllm.protos.Evaluation
import org.cooperllm.protos.Report
import org.cooperllm.protos.ReportStatus
import org.cooperllm.protos.ScoreSegmentsTask
import org.cooperllm.protos.Task
import org.cooperllm.runtime.TaskRefused
import org.cooperllm.runtime.UnsupportedTask
import org.cooperllm.runtime.store.State
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.update.Between
import org.cooperllm.runtime.update.LocalUpdate

/** What comes out of a task; a status other than OK comes with nothing but its detail. */
internal data class Finding(
    val status: ReportStatus = ReportStatus.REPORT_STATUS_OK,
    val detail: String = "",
    val scalars: List<Double> = emptyList(),
    val examples: Int = 0,
    val evaluation: Evaluation? = null,
    val segmentScores: List<Double> = emptyList(),
    val cost: Cost = Cost.NOTHING,
    val work: SegmentWork = SegmentWork(),
) {
    companion object {
        private const val MOST_DETAIL_CHARACTERS = 512

        /** The finding of a task that was not done. */
        fun refused(refusal: TaskRefused): Finding {
            val status = ReportStatus.valueOf("REPORT_STATUS_${refusal.status}")
            return Finding(status, refusal.message.orEmpty().take(MOST_DETAIL_CHARACTERS))
        }
    }
}

/** What a permitted task needs beside the engine: what directions are made of. With a [feed], their guides still arrive. */
internal class Ready(
    val expansion: Expansion = Expansion(null, emptyMap()),
    val feed: Feed? = null,
)

/**
 * One task, from permission to finding: what the device is asked, whether it will answer, and the answer.
 *
 * [gauss] draws from N(0, 1), from the device's own randomness. [onMeasured] hears how many directions are done;
 * [elapsedMs] is a monotonic clock.
 */
internal class Tasks(
    private val store: Store,
    private val budget: Budget,
    private val gauss: () -> Double,
    private val onMeasured: (done: Int, all: Int) -> Unit,
    private val elapsedMs: () -> Double,
) {
    /**
     * Decides, before anything is fetched or computed for it, whether the device answers a task, and what that discloses.
     *
     * Raises TaskRefused: BudgetExceeded, NotEnoughExamples or UnsupportedTask. Report it; nothing was disclosed.
     */
    fun permit(
        task: Task,
        engine: Engine,
        private: PrivateExamples,
    ): Cost =
        when (task.kindCase) {
            Task.KindCase.DIRECTIONS -> {
                TaskChecks.check(task.directions, engine.head, engine.hasBranches, engine.hasHeadGradient)
                allowance(task, engine).checkDirections(task.directions, engine.head, private.train.count)
                Cost.NOTHING // said by permitDirections
            }

            Task.KindCase.SCORE_SEGMENTS -> {
                allowance(task, engine).checkScores(task.scoreSegments, engine.head, private.train.count)
            }

            Task.KindCase.EVALUATE -> {
                TaskChecks.checkExit(task.evaluate.exitSegment, engine.head)
                allowance(task, engine).checkExamples(private.heldOut.count, "held-out")
                Account.checkEvaluation(task.round, store.state)
                Cost.NOTHING
            }

            else -> {
                throw UnsupportedTask("tasks of this kind are not known here: update the app")
            }
        }

    /** Decides again once scale and guides are here, which say where a direction's energy lies. Raises as [permit]. */
    fun permitDirections(
        task: Task,
        supplies: Supplies,
        engine: Engine,
    ): Cost = allow(task, Weighing.weigh(task.directions, supplies, engine.bundle.layout, engine.head), engine)

    /** What a task's directions were found to disclose, if the budget allows it. Raises as [permit]. */
    fun allow(
        task: Task,
        wanted: Cost,
        engine: Engine,
    ): Cost {
        allowance(task, engine).checkScalars(wanted)
        return wanted
    }

    /**
     * Does a permitted task with the adapter in the engine. Hold its lock.
     *
     * The scalars of finished directions are written down as they come: a process that starts again goes on behind them,
     * and neither measures nor noises a scalar twice. Between directions [goOn] is asked; false ends the work with
     * Stopped. Raises TaskRefused, Stopped or StoreFull.
     */
    fun carryOut(
        task: Task,
        ready: Ready,
        engine: Engine,
        private: PrivateExamples,
        goOn: () -> Boolean,
    ): Finding =
        when (task.kindCase) {
            Task.KindCase.EVALUATE -> evaluate(task.evaluate, engine, private)
            Task.KindCase.SCORE_SEGMENTS -> score(task.scoreSegments, engine, private)
            else -> runDirections(task, ready, engine, private, goOn)
        }

    private fun allowance(
        task: Task,
        engine: Engine,
    ) = Allowance(budget, engine.bundle.layout.parameters, Account.of(task.round, store.state))

    private fun runDirections(
        task: Task,
        ready: Ready,
        engine: Engine,
        private: PrivateExamples,
        goOn: () -> Boolean,
    ): Finding {
        val local = ready.expansion.task(task.directions)
        val done = store.progress.of(task.taskId)
        val all = local.steps.sumOf { it.directions.size }
        var measured = done.size
        val keep = { scalars: List<Double> ->
            store.progress.add(task.taskId, scalars)
            measured += scalars.size
            onMeasured(measured, all)
        }
        onMeasured(measured, all)
        val between = Between(keep, goOn) { (elapsedMs() * NS_PER_MS).toLong() }
        val exit = if (local.exitSegment == 0) engine.head else local.exitSegment
        // With the head alone active, all that runs is frozen.
        val train = private.trainFrom(minOf(local.activeSegments[0], exit), engine.core)
        engine.core.chain.keepWindow(train.firstSegment, exit, local.globalWeight > 0)
        val result = LocalUpdate(engine.core, gauss, between, ready.feed).run(local, train, done)
        onMeasured(all, all)
        return Finding(scalars = result.scalars, examples = result.examples)
    }

    /**
     * Evaluates from where the training examples' states are kept; before the first task with a window, segment by
     * segment, so that an evaluation holds no more of the model than that window.
     */
    private fun evaluate(
        task: EvaluateTask,
        engine: Engine,
        private: PrivateExamples,
    ): Finding {
        val exit = if (task.exitSegment == 0) engine.head else task.exitSegment
        val first =
            if (private.boundary > 0) {
                private.boundary
            } else if (exit < engine.head) {
                exit
            } else {
                0
            }
        val heldOut = private.heldOutFrom(minOf(first, exit), engine.core)
        engine.core.chain.keepWindow(heldOut.firstSegment, exit)
        val found = LocalUpdate.evaluate(engine.core, heldOut, exit)
        val message =
            Evaluation
                .newBuilder()
                .setLoss(found.lossSum / found.count)
                .setCorrect(found.correct.toInt())
                .setCount(found.count.toInt())
        return Finding(evaluation = message.build())
    }

    private fun score(
        task: ScoreSegmentsTask,
        engine: Engine,
        private: PrivateExamples,
    ): Finding {
        val chosen = LocalUpdate.drawBatch(task.batchSeed, task.batchExamples, private.train.count)
        val scores = SegmentScores.of(engine.core, private.train.batches(chosen))
        return Finding(segmentScores = scores, examples = chosen.size)
    }

    companion object {
        private const val NS_PER_MS = 1e6

        /** The message for the cloud, without its timing. */
        fun reportOf(
            task: Task,
            finding: Finding,
            private: PrivateExamples?,
            state: State,
            reportId: String,
        ): Report.Builder {
            val report =
                Report
                    .newBuilder()
                    .setTaskId(task.taskId)
                    .setReportId(reportId)
                    .setStatus(finding.status)
                    .setDetail(finding.detail)
                    .setAdapterSha256(ByteString.copyFrom(hexBytes(state.adapterSha256)))
                    .addAllScalars(finding.scalars.map { it.toFloat() })
                    .addAllSegmentScores(finding.segmentScores)
                    .setExamples(finding.examples)
                    .setSkippedExamples(private?.skipped ?: 0)
                    .setTruncatedExamples(private?.truncated ?: 0)
            if (finding.evaluation != null) report.setEvaluation(finding.evaluation)
            return report
        }
    }
}
