package org.cooperllm.runtime.session

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.launch
import org.cooperllm.protos.Task

/**
 * A permitted directions task, from what its directions are made of to its finding: along guides that still arrive where
 * the task allows it, or once all are here.
 */
internal class Directions(
    private val holdings: Holdings,
    private val journal: Journal,
    private val tasks: Tasks,
    private val stretches: Stretches,
) {
    /** Raises TaskRefused, Stopped, TaskLost, and what the cloud does. */
    suspend fun find(
        task: Task,
        engine: Engine,
        private: PrivateExamples,
    ): Finding =
        if (Feed.canStream(task.directions)) {
            findAlongStream(task, engine, private)
        } else {
            findOnWhole(task, engine, private)
        }

    private suspend fun findOnWhole(
        task: Task,
        engine: Engine,
        private: PrivateExamples,
    ): Finding {
        // A phase of its own where something may have to arrive.
        val isArriving = task.directions.guidesCount > 0 || !task.directions.scaleSha256.isEmpty
        val startMs = if (isArriving) journal.phase("guides") else 0.0
        val supplies = holdings.supplies(task.taskId, task.directions)
        if (isArriving) journal.span("guides", startMs)
        val cost = tasks.permitDirections(task, supplies, engine)
        val ready = Ready(Expansion(supplies.scale, supplies.guides, engine.bundle.layout))
        return stretches.compute(task, ready, engine, private).copy(cost = cost)
    }

    /** The stream, which may bring the adapter version too, ends with the work, however that ends. */
    private suspend fun findAlongStream(
        task: Task,
        engine: Engine,
        private: PrivateExamples,
    ): Finding =
        coroutineScope {
            val startMs = journal.phase("guides")
            val message = task.directions
            val scale = if (message.scaleSha256.isEmpty) null else holdings.scale(message.scaleSha256)
            val version = holdings.arriving(task) { journal.version(task.update) }
            val arrivals = holdings.arrivals(task.taskId, message.guidesList, version?.announced, journal::nowMs)
            val calls =
                FeedCalls({ tasks.allow(task, it, engine) }, stretches::isWanted, journal::segmentSpan, journal::nowMs)
            val feed = Feed(message, engine, arrivals, holdings.keptGuides(), scale, calls, version)
            journal.span("guides", startMs)
            val receiving = launch(Dispatchers.IO) { arrivals.run() }
            try {
                val ready = Ready(Expansion(scale, feed.guides), feed)
                stretches.compute(task, ready, engine, private).copy(cost = feed.cost)
            } finally {
                receiving.cancel()
            }
        }
}
