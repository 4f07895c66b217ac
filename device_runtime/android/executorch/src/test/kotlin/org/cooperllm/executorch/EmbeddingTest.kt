package org.cooperllm.executorch

import kotlinx.coroutines.runBlocking
import notes.NoteSorter
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.session.ServiceAddress
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** What an app meets before there is a service or a bundle: errors that say what to do, a folder that stays usable. */
class EmbeddingTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `without a service or a bundle each call is one typed error, and forgetting makes a new key`() {
        val folder = temporary.newFolder()
        // No port is ever 1 here, and the first contact is waited for shortly: see Retry.
        val nobody = ServiceAddress("127.0.0.1:1", tls = false)
        val sorter = NoteSorter(folder, nobody) { mapOf("wake me at seven" to "alarm") }
        runBlocking {
            assertTrue(thrownBy { sorter.labelOf("wake me") } is BundleError)
            assertTrue(thrownBy { sorter.learn() } is ServerUnreachable)
            val key = File(folder, "key").readBytes()
            sorter.forgetMe()
            assertTrue(!key.contentEquals(File(folder, "key").readBytes()))
        }
        sorter.close()
        NoteSorter(folder, nobody) { emptyMap() }.close()
    }

    @Test
    fun `an address that is none is refused at once, and the folder is not left locked`() {
        val folder = temporary.newFolder()
        repeat(2) {
            val error =
                assertThrows(OptionError::class.java) { NoteSorter(folder, ServiceAddress("nowhere")) { emptyMap() } }
            assertEquals("'nowhere' is no address of a service: write HOST:PORT", error.message)
        }
    }

    private suspend fun thrownBy(call: suspend () -> Unit): Throwable? = runCatching { call() }.exceptionOrNull()
}
