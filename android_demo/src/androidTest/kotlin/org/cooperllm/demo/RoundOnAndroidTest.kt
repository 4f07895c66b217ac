package org.cooperllm.demo

import android.util.Log
import androidx.test.platform.app.InstrumentationRegistry
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.cooperllm.android.KeystoreKeys
import org.cooperllm.executorch.ExecuTorchProgram
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.ServiceAddress
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/**
 * A job of a real service on Android itself: official ExecuTorch AAR, native tokenizers, the key in the Android Keystore.
 *
 * Started by tests/integration/phone_round.py, which compares the adapters written to the log with the service's. It runs
 * on a machine with an emulator or a phone, and has not run where this project is developed.
 */
class RoundOnAndroidTest {
    @Test
    fun everyRoundOfTheJobIsTakenPartInUntilItIsFinished() {
        val service = InstrumentationRegistry.getArguments().getString("service") ?: error("no service: -e service HOST:PORT")
        val folder = File(InstrumentationRegistry.getInstrumentation().targetContext.filesDir, "round-on-android")
        folder.deleteRecursively()
        val events = mutableListOf<Event>()
        val address = ServiceAddress(service, tls = false, name = "android")
        FederatedDevice(folder, address, { examples() }, ExecuTorchProgram, keys = KeystoreKeys("round-on-android")).use {
            runBlocking {
                val listening =
                    launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
                        it.progress.collect { event ->
                            synchronized(events) { events += event }
                            tell(event)
                        }
                    }
                it.runUntilFinished()
                listening.cancel()
                assertTrue(it.predict(listOf("w1 w2")).single().label in CLASSES)
            }
        }
        val statuses = events.filter { it.name == "report" }.map { it.fields["status"].toString() }
        assertEquals(setOf("OK"), statuses.toSet())
    }

    private fun tell(event: Event) {
        if (event.name == "version") Log.i("CooperLLM", "version ${event.fields["version"]} ${event.fields["adapter_sha256"]}")
    }

    /** Words that the toy bundle knows; the class follows from the first one. */
    private fun examples(): List<Example> =
        (1..WORDS).flatMap { first ->
            (1..EXAMPLES_OF_A_WORD).map { other -> Example("w$first w$other w${(first + other) % WORDS + 1}", CLASSES[first % 3]) }
        }

    private companion object {
        val CLASSES = listOf("left", "right", "up")
        const val WORDS = 31
        const val EXAMPLES_OF_A_WORD = 4
    }
}
