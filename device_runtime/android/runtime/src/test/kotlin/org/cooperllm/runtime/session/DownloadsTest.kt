package org.cooperllm.runtime.session

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import kotlinx.coroutines.runBlocking
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.store.Durable
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.net.InetAddress
import java.net.InetSocketAddress
import kotlin.random.Random

/** Artifacts over real HTTP: resumed where they broke off, bounded, and believed by their hash alone. */
class DownloadsTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val data = Random(1).nextBytes(200_000)
    private val sha256 = Durable.sha256(data)
    private val ranges = mutableListOf<String?>()
    private val server = HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0)
    private var answer: (HttpExchange) -> Unit = ::serve
    private lateinit var target: File

    @Before
    fun start() {
        target = File(temporary.root, "artifact")
        server.createContext("/v1/artifacts/") { exchange ->
            ranges += exchange.requestHeaders.getFirst("Range")
            exchange.use { answer(it) }
        }
        server.start()
    }

    @After
    fun stop() = server.stop(0)

    private inline fun HttpExchange.use(action: (HttpExchange) -> Unit) =
        try {
            action(this)
        } finally {
            close()
        }

    /** All that was asked for, of which [most] bytes arrive. */
    private fun serve(
        exchange: HttpExchange,
        most: Int = data.size,
    ) {
        val from =
            exchange.requestHeaders
                .getFirst("Range")
                ?.substringAfter("=")
                ?.substringBefore("-")
                ?.toInt() ?: 0
        if (from > 0) exchange.responseHeaders.add("Content-Range", "bytes $from-${data.size - 1}/${data.size}")
        exchange.sendResponseHeaders(if (from > 0) 206 else 200, (data.size - from).toLong())
        exchange.responseBody.write(data, from, minOf(most, data.size - from))
    }

    private fun fetch(
        sizeBytes: Long? = data.size.toLong(),
        mostBytes: Long = data.size.toLong(),
    ) = runBlocking {
        val retry = Retry(uniform = { low, _ -> low }, pause = {})
        val url = "http://127.0.0.1:${server.address.port}"
        Downloads(
            url,
            { mapOf("cooperllm-client" to "me") },
            retry,
            Traffic(),
        ).fetch(sha256, sizeBytes, target, mostBytes)
    }

    @Test
    fun `a download that breaks off goes on where it was`() {
        var answers = 0
        answer = { if (answers++ < 2) serve(it, most = 70_000) else serve(it) }
        fetch()
        assertArrayEquals(data, target.readBytes())
        assertEquals(3, ranges.size)
        assertEquals(null, ranges[0])
        assertTrue(ranges.drop(1).all { it != null && it.startsWith("bytes=") })
        assertFalse(File(target.path + Downloads.PART).exists())
    }

    @Test
    fun `what a process had fetched before it ended is not fetched again`() {
        File(target.path + Downloads.PART).writeBytes(data.copyOf(150_000))
        fetch()
        assertArrayEquals(data, target.readBytes())
        assertEquals(listOf<String?>("bytes=150000-"), ranges)
    }

    @Test
    fun `altered or oversized bytes are dropped`() {
        File(target.path + Downloads.PART).writeBytes(ByteArray(150_000))
        refused<ArtifactError>("altered") { fetch() }
        assertFalse(File(target.path + Downloads.PART).exists())
        refused<ArtifactError>("refused") { fetch(mostBytes = 1000) }
        refused<ArtifactError>("larger than") { fetch(sizeBytes = 1000) }
        assertFalse(target.exists())
    }

    @Test
    fun `statuses and addresses are typed errors`() {
        answer = { it.sendResponseHeaders(404, -1) }
        refused<ServerRefused>("no artifact") { fetch() }
        answer = { it.sendResponseHeaders(401, -1) }
        refused<NotEnrolled>("set the clock") { fetch() }
        refused<OptionError>("http://HOST:PORT") { Downloads("ftp://x", { emptyMap() }, Retry(), Traffic()) }
    }

    private inline fun <reified T : CooperLLMError> refused(
        words: String,
        crossinline call: () -> Unit,
    ) {
        val error = assertThrows(T::class.java) { call() }
        assertTrue(error.message, error.message.orEmpty().contains(words))
    }
}
