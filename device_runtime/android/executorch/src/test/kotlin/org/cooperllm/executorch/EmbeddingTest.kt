package org.cooperllm.executorch

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.runBlocking
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.ExampleSource
import org.cooperllm.runtime.session.ServiceAddress
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

// A first embedding: all that an app writes.
private class NoteSorter(
    folder: File,
    server: String,
    corrections: () -> Map<String, String>,
) {
    private val source = ExampleSource { corrections().map { (text, label) -> Example(text, label) } }
    private val device = FederatedDevice(folder, ServiceAddress(server, tls = false), source, ExecuTorchProgram)
    val progress: Flow<Event> = device.progress

    suspend fun takePart() = device.runOnce()

    suspend fun labelOf(text: String) = device.predict(listOf(text)).single().label

    suspend fun forgetMe() = device.forget()

    fun close() = device.close()
}

/** What an app meets before there is a service or a bundle: errors that say what to do, and a folder that stays usable. */
class EmbeddingTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `without a service or a bundle each call is one typed error, and forgetting makes a new key`() {
        val folder = temporary.newFolder()
        // No port is ever 1 here, and the first contact is waited for shortly: see Retry.
        val sorter = NoteSorter(folder, "127.0.0.1:1") { mapOf("wake me at seven" to "alarm") }
        runBlocking {
            assertTrue(thrownBy { sorter.labelOf("wake me") } is BundleError)
            assertTrue(thrownBy { sorter.takePart() } is ServerUnreachable)
            val key = File(folder, "key").readBytes()
            sorter.forgetMe()
            assertTrue(!key.contentEquals(File(folder, "key").readBytes()))
        }
        sorter.close()
        NoteSorter(folder, "127.0.0.1:1") { emptyMap() }.close()
    }

    @Test
    fun `an address that is none is refused at once, and the folder is not left locked`() {
        val folder = temporary.newFolder()
        repeat(2) {
            val error =
                assertThrows(OptionError::class.java) { NoteSorter(folder, "nowhere") { emptyMap() } }
            assertEquals("'nowhere' is no address of a service: write HOST:PORT", error.message)
        }
    }

    private suspend fun thrownBy(call: suspend () -> Unit): Throwable? = runCatching { call() }.exceptionOrNull()
}
