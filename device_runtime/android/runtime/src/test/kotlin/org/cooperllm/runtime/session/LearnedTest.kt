package org.cooperllm.runtime.session

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.withLock
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.NotEnoughExamples
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.update.SmallProgram
import org.cooperllm.runtime.zo.AdapterVersion
import org.cooperllm.runtime.zo.toArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The adapter in use, what stays on the device, and the list of what left it. */
class LearnedTest : InAWorld() {
    @Test
    fun `without a bundle nothing is answered`() {
        assertThrows(BundleError::class.java) { world.evaluate(world.examples) }
        assertThrows(BundleError::class.java) { world.personalise() }
    }

    @Test
    fun `an evaluation counts the examples with a known label and leaves the rest out`() {
        world.turn(world.task())
        val sent = world.cloud.traffic.uplinkBytes
        val found = world.evaluate(world.examples.take(9) + Example("w1", "nowhere"))
        assertEquals(9, found.examples)
        assertEquals(3, found.correct) // all logits are the same, so the first class is the answer
        assertEquals(1.0 / 3, found.accuracy, 1e-12)
        assertTrue(found.meanLoss > 0)
        assertThrows(NotEnoughExamples::class.java) { world.evaluate(listOf(Example("w1", "nowhere"))) }
        assertEquals(sent, world.cloud.traffic.uplinkBytes)
    }

    @Test
    fun `personalising lowers the loss here, leaves the shared adapter and tells nobody`() {
        world.turn(world.task())
        val before = world.adapter()
        val sent = world.cloud.traffic.uplinkBytes
        val found = world.personalise(PRACTICE)
        assertTrue(found.isKept && found.lossAfter < found.lossBefore)
        assertEquals(32, found.steps)
        assertArrayEquals(before, world.adapter(), 0f)
        assertEquals(sent, world.cloud.traffic.uplinkBytes)
        val shared = world.evaluate(world.examples, usePersonal = false).meanLoss
        assertTrue(world.evaluate(world.examples).meanLoss < shared)
        assertArrayEquals(before, world.adapter(), 0f)
        val told = world.events.last { it.name == "progress" }
        assertEquals("personalise", told.live.phase)
        assertEquals(listOf<Any?>(32, 32), listOf(told.fields["steps_done"], told.fields["steps"]))
    }

    /** Whoever waited for the engine gets it before the version is written down. */
    @Test
    fun `a version is written as it was reached, whatever a prediction has in the engine by then`() {
        val isOver = CompletableDeferred<Unit>()
        world.cloud.onFetch = {
            val engine = world.holdings.engine
            if (engine != null && engine.lock.isLocked) {
                world.cloud.onFetch = {}
                CoroutineScope(Dispatchers.Unconfined).launch {
                    engine.lock.withLock {
                        val shared = engine.core.adapter.copy()
                        engine.core.adapter.write(0, floatArrayOf(0.5f), 1)
                        isOver.await()
                        engine.core.adapter.copyFrom(shared)
                    }
                }
            }
        }
        world.beforeEvent = { if (it.name == "version") isOver.complete(Unit) }
        world.turn(world.task())
        assertTrue(isOver.isCompleted)
        assertArrayEquals(AdapterVersion.sha256(world.bundle.adapter), hexBytes(world.store.state.adapterSha256))
    }

    @Test
    fun `what was personalised outlives the process, goes on, and is forgotten alone`() {
        world.turn(world.task())
        world.personalise(PRACTICE)
        val first = world.evaluate(world.examples).meanLoss
        world.start()
        assertEquals(first, world.evaluate(world.examples).meanLoss, 0.0)
        assertTrue(world.personalise(PRACTICE).isKept)
        val kept = Personal.fromBytes(world.store.readPersonal(), world.bundle.sha256, world.bundle.layout)
        assertEquals(64, kept?.steps)
        assertTrue(world.evaluate(world.examples).meanLoss < first)
        world.forgetPersonal()
        assertNull(world.store.readPersonal())
        assertEquals(
            world.evaluate(world.examples, usePersonal = false).meanLoss,
            world.evaluate(world.examples).meanLoss,
            0.0,
        )
        assertNotNull(world.store.readAdapter())
    }

    @Test
    fun `a private adapter of another bundle, or cut, is as good as absent`() {
        val layout = world.bundle.layout
        val personal = Personal("ab".repeat(32), "cd".repeat(32), 3, FloatArray(layout.parameters) { 0.5f })
        val data = personal.toBytes()
        assertNull(Personal.fromBytes(data, world.bundle.sha256, layout))
        assertNull(Personal.fromBytes(data.copyOf(data.size - 1), "ab".repeat(32), layout))
        val again = checkNotNull(Personal.fromBytes(data, "ab".repeat(32), layout))
        assertArrayEquals(data, again.toBytes())
        assertEquals(3, again.steps)
    }

    @Test
    fun `a private value stops one grid step inside the bound, and zero is never negative`() {
        val layout = world.bundle.layout
        val difference = FloatArray(layout.parameters)
        val adapter = world.bundle.adapter.copy()
        val values = adapter.toArray()
        difference[0] = 16f // beyond 2^(23 - e) of any exponent that a small adapter has
        difference[1] = -values[1]
        Personal("", "", 1, difference).applyTo(adapter, layout)
        val most = (8_388_607.0 * Math.pow(2.0, -layout.tensors[0].exponent.toDouble())).toFloat()
        assertEquals(most, adapter.toArray()[0], 0f)
        assertEquals(0, adapter.toArray()[1].toRawBits())
        assertArrayEquals(values.drop(2).toFloatArray(), adapter.toArray().drop(2).toFloatArray(), 0f)
    }

    @Test
    fun `too few examples, or an end in between, change nothing`() {
        world.turn(world.task())
        val before = world.adapter()
        world.goOn = { false }
        assertThrows(Stopped::class.java) { world.personalise(PRACTICE) } // asked before the first block
        world.goOn = { true }
        val runs = world.program.runs
        world.program.beforeRun = { run ->
            if (run == runs + 300) {
                world.holdings.engine
                    ?.core
                    ?.stop()
            }
        }
        assertThrows(Stopped::class.java) { world.personalise(PRACTICE) }
        world.program.beforeRun = {}
        world.holdings.engine
            ?.core
            ?.resume()
        assertArrayEquals(before, world.adapter(), 0f)
        assertNull(world.store.readPersonal())
        world.examples.subList(7, world.examples.size).clear()
        assertThrows(NotEnoughExamples::class.java) { world.personalise(PRACTICE) }
    }

    @Test
    fun `what left is listed, report by report, over restarts, and is bounded`() {
        world.turn(world.task())
        world.turn(world.evaluation(2, world.version(isHeld = true)))
        world.turn(world.task(3, world.version(isHeld = true), World.directions(count = 65)))
        val sizes = world.cloud.reports.map { it.serializedSize }
        world.start()
        val listed = world.store.state.disclosures
        assertTrue(listed.zipWithNext().all { (first, second) -> first.whenMs < second.whenMs })
        val expected =
            listOf(
                Disclosure(listed[0].whenMs, 1, "directions", 4, 0, sizes[0]),
                Disclosure(listed[1].whenMs, 2, "evaluate", 3, 0, sizes[1]),
                Disclosure(listed[2].whenMs, 3, "directions", 0, 0, sizes[2]),
            )
        assertEquals(expected, listed)
        repeat(130) { world.turn(world.task(4L + it, world.version(isHeld = true), World.directions(count = 65))) }
        assertEquals(128, world.store.state.disclosures.size)
        assertEquals(
            133L,
            world.store.state.disclosures
                .last()
                .round,
        )
    }

    @Test
    fun `a report that never arrived is listed all the same, once`() {
        world.cloud.refusal = IllegalStateException("the process ends here")
        assertThrows(IllegalStateException::class.java) { world.turn(world.task()) }
        world.start()
        world.turn()
        assertEquals(
            listOf(1L),
            world.store.state.disclosures
                .map { it.round },
        )
    }

    @Test
    fun `a screen hears of phases, directions, bytes and memory as they change`() {
        world.turn(world.task())
        val live = world.events.filter { it.name == "progress" }.map { it.live }
        assertEquals(listOf("compute"), live.map { it.phase }.distinct())
        assertEquals(0, live.first().directionsDone)
        assertEquals(4, live.last().directionsDone)
        assertEquals(live.map { it.directionsDone }, live.map { it.directionsDone }.sorted())
        assertEquals(listOf(4), live.map { it.directionsAll }.distinct())
        val last = world.events.last().live
        assertEquals("report", last.phase)
        assertEquals(world.cloud.traffic.uplinkBytes, last.uplinkBytes)
        assertEquals(world.cloud.traffic.downlinkBytes, last.downlinkBytes)
        val engine = checkNotNull(world.holdings.engine)
        assertEquals(engine.memory.neededBytes, last.engineBytes)
        assertTrue(last.residentBytes > 1 shl 20)
        assertEquals(
            0L,
            world.events
                .first()
                .live.engineBytes,
        )
    }

    private fun World.personalise(practice: Practice = Practice()) = runBlocking { session.personalise(practice) }

    private fun World.evaluate(
        examples: List<Example>,
        usePersonal: Boolean = true,
    ) = runBlocking { session.learned.evaluate(examples, usePersonal) }

    private fun World.forgetPersonal() = runBlocking { session.learned.forgetPersonal() }

    private fun World.adapter(): FloatArray = checkNotNull(holdings.engine).core.adapter.toArray()

    private companion object {
        /** The small program's loss is hidden * mean of the head: any direction that lowers the mean helps. */
        val PRACTICE = Practice(steps = 32, directions = 4, batchExamples = 8, epsilon = 0.05, moves = Moves.HEAD)
    }
}
