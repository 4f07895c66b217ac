package org.cooperllm.runtime.session

import org.cooperllm.protos.Report
import org.cooperllm.protos.Task
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.TaskLost
import org.cooperllm.runtime.VersionRefused
import org.cooperllm.runtime.store.State
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.zo.toHex

/**
 * A report on its way: written down before it leaves, sent until acknowledged, dropped when nobody waits.
 *
 * [uniform] picks pauses, [newId] names reports.
 */
internal class Outbox(
    private val cloud: Cloud,
    private val store: Store,
    private val holdings: Holdings,
    private val journal: Journal,
    private val uniform: (Double, Double) -> Double,
    private val newId: () -> String,
) {
    /** Whether a report waits to be acknowledged. */
    val isPending: Boolean get() = store.state.pendingReport.isNotEmpty()

    /** Writes a report down, in one write with what it discloses. Only after that may it leave. */
    fun keep(
        task: Task,
        finding: Finding,
        private: PrivateExamples?,
    ) {
        val report = Tasks.reportOf(task, finding, private, store.state, newId())
        val pending = report.setTiming(journal.timing(finding.work)).build().toByteArray()
        val told = Account.disclosure(task, finding, journal.nowMs(), pending.size)
        store.update {
            Account
                .charge(it, task.round, finding)
                .copy(
                    pendingReport = pending.toHex(),
                    pendingRound = task.round,
                    disclosures = (it.disclosures + told).takeLast(State.MOST_DISCLOSURES),
                )
        }
        store.progress.clear()
    }

    /**
     * Sends the pending report until it is acknowledged, or the cloud says that it came too late. Answers after how many
     * milliseconds to go on.
     */
    suspend fun send(): Double {
        val report = Report.parseFrom(hexBytes(store.state.pendingReport))
        val startMs = journal.phase("report")
        val ack =
            try {
                cloud.sendReport(report)
            } catch (error: VersionRefused) {
                holdings.forgetAdapter()
                return drop(error)
            } catch (error: TaskLost) {
                return drop(error)
            } catch (error: NotEnrolled) {
                throw error
            } catch (error: ServerRefused) {
                // Repeating it cannot help, and would keep the device from ever working again.
                store.update { it.copy(pendingReport = "") }
                throw error
            }
        val round = store.state.pendingRound
        store.update { it.copy(pendingReport = "") }
        journal.acknowledged(report, round, ack.duplicate, startMs)
        return 0.0
    }

    /**
     * Drops work that nobody waits for any more. Answers a pause in milliseconds, which keeps a confused cloud from being
     * asked in a loop.
     */
    fun drop(error: CooperLLMError): Double {
        store.update { it.copy(pendingReport = "") }
        store.progress.clear()
        val waitMs = uniform(0.0, LOST_PAUSE_MS)
        journal.tell("lost", "detail" to error.message.orEmpty(), "wait_s" to waitMs / 1000)
        return waitMs
    }

    private companion object {
        const val LOST_PAUSE_MS = 1000.0
    }
}
