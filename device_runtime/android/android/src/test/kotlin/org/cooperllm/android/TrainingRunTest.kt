package org.cooperllm.android

import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.test.TestScope
import kotlinx.coroutines.test.advanceTimeBy
import kotlinx.coroutines.test.currentTime
import kotlinx.coroutines.test.runTest
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.session.Outcome
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

@OptIn(ExperimentalCoroutinesApi::class)
internal class TrainingRunTest {
    private var missing = emptySet<Condition>()
    private val phases = mutableListOf<Any?>()
    private var rested = 0

    private fun TestScope.run(
        work: TrainingWork,
        limitMs: Long = 60_000,
    ) = TrainingRun({ work }, { missing }, { currentTime }, limitMs) { phases += it.fields["phase"] }

    private val endless: suspend ScriptedWork.() -> Outcome = {
        try {
            awaitCancellation()
        } finally {
            rested++
        }
    }

    @Test
    fun turnsFollowUntilTheJobIsOver() =
        runTest {
            val work =
                ScriptedWork(
                    { Outcome(waitMs = 2_000.0).also { phase("compute") } },
                    { Outcome(waitMs = 1.0).also { phase("report") } },
                    { FINISHED },
                )
            assertEquals(TrainingEnd.Finished, run(work).run())
            assertEquals(listOf<Any?>("compute", "report"), phases)
            assertEquals(2_001, currentTime)
        }

    @Test
    fun aLongWaitIsLeftToTheScheduler() =
        runTest {
            val work = ScriptedWork({ Outcome(waitMs = 20_001.0) })
            assertEquals(TrainingEnd.Waiting(20_001.0), run(work).run())
            assertEquals(0, currentTime)
        }

    @Test
    fun noProgramIsOpenedWhileAConditionIsMissing() =
        runTest {
            missing = setOf(Condition.COOL)
            val run = TrainingRun({ error("was opened") }, { missing }, { currentTime })
            assertEquals(TrainingEnd.ConditionsMissing(missing), run.run())
        }

    @Test
    fun aConditionThatGoesAwayEndsTheTurnWithinASecond() =
        runTest {
            launch {
                delay(2_500)
                missing = setOf(Condition.IDLE)
            }
            assertEquals(TrainingEnd.ConditionsMissing(setOf(Condition.IDLE)), run(ScriptedWork(endless)).run())
            assertEquals(3_000, currentTime)
            assertEquals(1, rested)
        }

    @Test
    fun theTimeIsUp() =
        runTest {
            assertEquals(TrainingEnd.TimeUp, run(ScriptedWork(endless), limitMs = 5_000).run())
            assertEquals(5_000, currentTime)
            assertEquals(1, rested)
        }

    @Test
    fun theSystemsTimeLimitIsKept() = assertTrue(TrainingRun.LIMIT_MS <= 9 * 60_000)

    @Test
    fun stopEndsTheTurn() =
        runTest {
            val run = run(ScriptedWork(endless))
            launch {
                delay(10)
                run.stop()
            }
            assertEquals(TrainingEnd.Stopped, run.run())
            assertEquals(10, currentTime)
            assertEquals(1, rested)
        }

    @Test
    fun cancellingWaitsUntilTheTurnIsAtRest() =
        runTest {
            val run = launch { run(ScriptedWork(endless)).run() }
            advanceTimeBy(1_500)
            run.cancelAndJoin()
            assertEquals(1, rested)
        }

    @Test
    fun whatFailsIsTold() =
        runTest {
            val end = run(ScriptedWork({ throw ServerUnreachable("nobody answers") })).run()
            assertTrue((end as TrainingEnd.Failed).error is ServerUnreachable)
            assertEquals(TrainingEnd.Stopped, run(ScriptedWork({ throw Stopped("by the app") })).run())
        }
}
