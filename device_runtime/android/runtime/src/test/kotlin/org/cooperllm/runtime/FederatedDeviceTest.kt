package org.cooperllm.runtime

import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.Limits
import org.cooperllm.runtime.session.Moves
import org.cooperllm.runtime.session.Practice
import org.cooperllm.runtime.session.World
import org.cooperllm.runtime.update.SmallProgram
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** What an app calls, on a device that took part before and has no network now. */
class FederatedDeviceTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val program = SmallProgram()
    private lateinit var examples: List<Example>

    @Test
    fun `what is on the device is used, personalised, listed and forgotten without a network`() {
        val folder = tookPart()
        device(folder).use { device ->
            runBlocking {
                val prediction = device.predict(listOf("w1 w2")).single()
                assertEquals(1.0, prediction.probabilities.values.sum(), 1e-12)
                val before = device.evaluate(examples)
                assertEquals(examples.size, before.examples)
                assertTrue(device.personalise(PRACTICE).isKept)
                assertTrue(device.evaluate(examples).meanLoss < before.meanLoss)
                assertEquals(before, device.evaluate(examples, usePersonal = false))
                assertEquals(listOf(2L, 1L), device.disclosures().map { it.round })
                assertEquals(listOf("evaluate", "directions"), device.disclosures().map { it.kind })
                device.forgetPersonal()
                assertEquals(before, device.evaluate(examples))
                device.personalise(PRACTICE)
                device.forget()
                assertTrue(thrownBy { device.evaluate(examples) } is BundleError)
            }
            assertEquals(emptyList<Disclosure>(), device.disclosures())
            assertFalse(File(folder, "personal").exists())
        }
    }

    @Test
    fun `without an address a turn is refused, and so is a bundle beyond the limit on memory`() {
        val folder = tookPart()
        device(folder).use { assertTrue(runBlocking { thrownBy { it.runOnce() } } is OptionError) }
        device(folder, Limits(maxMemoryBytes = 1000)).use { small ->
            runBlocking {
                assertTrue(thrownBy { small.predict(listOf("w1")) } is BundleTooLarge)
                assertTrue(thrownBy { small.personalise() } is BundleTooLarge)
            }
        }
    }

    @Test
    fun `a stop ends personalising, changes nothing, and another call goes on`() {
        val folder = tookPart()
        device(folder).use { device ->
            runBlocking(Dispatchers.Default) {
                val before = device.evaluate(examples)
                val told = mutableListOf<Event>()
                val listening = launch(start = CoroutineStart.UNDISPATCHED) { device.progress.collect { told += it } }
                val endless = Practice(steps = 1_000_000, directions = 2, batchExamples = 8, moves = Moves.HEAD)
                val personalising = async { thrownBy { device.personalise(endless) } }
                val runs = program.runs
                while (program.runs < runs + 100) kotlinx.coroutines.yield()
                device.stop()
                assertTrue(personalising.await() is Stopped)
                listening.cancel()
                device.forgetPersonal()
                assertEquals(before, device.evaluate(examples))
                assertTrue(device.personalise(PRACTICE).isKept)
            }
        }
    }

    @Test
    fun `personalising ends early when its time is up, and keeps what it has`() {
        val folder = tookPart()
        device(folder, Limits(maxDurationMs = 300)).use { device ->
            val long = Practice(steps = 1_000_000, directions = 2, batchExamples = 8, moves = Moves.HEAD)
            val found = runBlocking { device.personalise(long) }
            assertTrue(found.steps in 1 until 1_000_000)
            assertEquals(found.isKept, File(folder, "personal").exists())
        }
    }

    /** The folder of a device that did two tasks. */
    private fun tookPart(): File {
        val folder = temporary.newFolder()
        World(folder).use { world ->
            world.turn(world.task())
            world.turn(world.evaluation(2, world.version(isHeld = true)))
            examples = world.examples.toList()
        }
        return File(folder, "store")
    }

    private fun device(
        folder: File,
        limits: Limits = Limits(),
    ) = FederatedDevice(folder, null, { examples }, { _, _ -> program }, limits = limits)

    private suspend fun thrownBy(call: suspend () -> Unit): Throwable? = runCatching { call() }.exceptionOrNull()

    private companion object {
        val PRACTICE = Practice(steps = 32, directions = 4, batchExamples = 8, epsilon = 0.05, moves = Moves.HEAD)
    }
}
