package org.cooperllm.runtime.session

import kotlinx.coroutines.runInterruptible
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.OptionError
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.store.Durable
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.RandomAccessFile
import java.net.HttpURLConnection
import java.net.MalformedURLException
import java.net.URL
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import javax.net.ssl.HttpsURLConnection
import javax.net.ssl.SSLSocketFactory

/**
 * GET /v1/artifacts/{sha256} of one service: resumable, bounded in size, and checked before anything is used.
 *
 * [headers] makes the signature headers of a path; [sockets] replaces the system's roots where it is not null.
 */
internal class Downloads(
    url: String,
    private val headers: (String) -> Map<String, String>,
    private val retry: Retry,
    private val traffic: Traffic,
    private val timeoutMs: Int = 30_000,
    private val sockets: SSLSocketFactory? = null,
) {
    private val base: URL =
        try {
            URL(url.trimEnd('/')).also { if (it.protocol !in SCHEMES || it.host.isEmpty()) throw badAddress(url) }
        } catch (_: MalformedURLException) {
            throw badAddress(url)
        }

    /**
     * Puts the artifact at [target]. Bytes that are already in its `.part` file are not fetched again.
     *
     * [sizeBytes] is what was promised, or null; never are more than [mostBytes] written.
     *
     * Raises ArtifactError when the bytes are not what the hash promised (they are removed: fetch again),
     * ServerUnreachable after all repetitions, ServerRefused when the service has no such artifact, StoreFull.
     */
    suspend fun fetch(
        sha256: String,
        sizeBytes: Long?,
        target: File,
        mostBytes: Long,
    ) {
        val limit = sizeBytes ?: mostBytes
        if (limit > mostBytes) {
            throw ArtifactError("artifact of $sizeBytes bytes refused: this device accepts $mostBytes")
        }
        val part = File(target.path + PART)
        retry.run(base.toString()) { runInterruptible { resume(sha256, part, limit) } }
        try {
            RandomAccessFile(part, "rw").use { it.fd.sync() } // an empty answer has left no file
            if (Bundle.fileSha256(part) != sha256 || (sizeBytes != null && part.length() != sizeBytes)) {
                Durable.delete(part)
                throw ArtifactError("artifact ${sha256.take(SHOWN)} arrived altered: it was dropped, fetch it again")
            }
            Files.move(part.toPath(), target.toPath(), StandardCopyOption.ATOMIC_MOVE)
        } catch (error: IOException) {
            throw Durable.storeError(error, part, "write")
        }
        Durable.syncFolder(target.absoluteFile.parentFile)
    }

    /** One request for the bytes that are missing; a broken one leaves what arrived, for the next. */
    private fun resume(
        sha256: String,
        part: File,
        limit: Long,
    ) {
        if (part.length() > limit) Durable.delete(part)
        val have = part.length()
        if (have == limit && have > 0) return // the process ended between the last byte and the check
        val connection = connect("${base.path}/v1/artifacts/$sha256", have)
        try {
            val status = connection.responseCode
            // Nothing is missing, or the part is of something else: the hash will tell.
            if (status == RANGE_NOT_SATISFIABLE) return
            checkStatus(status, sha256)
            val isPartial = status == HttpURLConnection.HTTP_PARTIAL
            if (isPartial && connection.getHeaderField("Content-Range")?.startsWith("bytes $have-") != true) {
                Durable.delete(part)
                throw Transient("answered another range than asked")
            }
            val start = if (isPartial) have else 0
            val written = connection.inputStream.use { writeBody(it, part, start, limit) }
            val expected = connection.getHeaderField("Content-Length")?.toLongOrNull()
            if (expected != null && written - start < expected) throw Transient("the connection broke off")
        } catch (error: IOException) {
            Statuses.distrustOf(error)?.let { throw it }
            throw Transient(error.message ?: error.javaClass.simpleName, error)
        } finally {
            connection.disconnect()
        }
    }

    private fun connect(
        path: String,
        have: Long,
    ): HttpURLConnection {
        val connection = URL(base.protocol, base.host, base.port, path).openConnection() as HttpURLConnection
        if (sockets != null && connection is HttpsURLConnection) connection.sslSocketFactory = sockets
        connection.connectTimeout = timeoutMs
        connection.readTimeout = timeoutMs
        connection.instanceFollowRedirects = false
        val fields = headers(path) + if (have > 0) mapOf("Range" to "bytes=$have-") else emptyMap()
        // Otherwise some virtual machines ask for gzip by themselves, and a range would be of packed bytes.
        for ((name, value) in fields + ("Accept-Encoding" to "identity")) connection.setRequestProperty(name, value)
        traffic.sent(path.length + fields.entries.sumOf { it.key.length + it.value.length + SEPARATORS }.toLong())
        return connection
    }

    private fun checkStatus(
        status: Int,
        sha256: String,
    ) {
        when {
            status == HttpURLConnection.HTTP_OK || status == HttpURLConnection.HTTP_PARTIAL -> {
                return
            }

            status in PASSING || status >= HttpURLConnection.HTTP_INTERNAL_ERROR -> {
                throw Transient("HTTP $status")
            }

            status == HttpURLConnection.HTTP_UNAUTHORIZED || status == HttpURLConnection.HTTP_FORBIDDEN -> {
                throw NotEnrolled("the service does not accept this signature: set the clock, then enroll again")
            }

            else -> {
                throw ServerRefused(
                    "the service has no artifact ${sha256.take(SHOWN)} (HTTP $status): check its address",
                )
            }
        }
    }

    /** Appends the body to the part file, up to the limit; answers the file's length. */
    private fun writeBody(
        body: InputStream,
        part: File,
        start: Long,
        limit: Long,
    ): Long {
        val chunk = ByteArray(CHUNK_BYTES)
        var written = start
        openPart(part, start).use { file ->
            while (true) {
                // Whoever stops the session need not wait for the rest: it is fetched by the next one.
                if (Thread.currentThread().isInterrupted) throw InterruptedException()
                val size = body.read(chunk)
                if (size < 0) return written
                traffic.received(size.toLong())
                written += size
                if (written > limit) {
                    Durable.delete(part)
                    throw ArtifactError("an artifact is larger than the $limit bytes promised: it was dropped")
                }
                writing(part) { file.write(chunk, 0, size) }
            }
        }
    }

    /** The part file, cut to the bytes that are kept and positioned behind them. */
    private fun openPart(
        part: File,
        start: Long,
    ): RandomAccessFile =
        writing(part) {
            RandomAccessFile(part, "rw").apply {
                setLength(start)
                seek(start)
            }
        }

    /** A failure of the disk must not look like one of the network. */
    private inline fun <T> writing(
        part: File,
        action: () -> T,
    ): T =
        try {
            action()
        } catch (error: IOException) {
            throw Durable.storeError(error, part, "write")
        }

    private fun badAddress(url: String) = OptionError("'$url' is no address of artifacts: write http://HOST:PORT")

    companion object {
        /** What a name ends with while its file is on its way. */
        const val PART: String = ".part"
        private const val CHUNK_BYTES = 64 * 1024
        private const val SHOWN = 12
        private const val SEPARATORS = 4
        private const val RANGE_NOT_SATISFIABLE = 416
        private val SCHEMES = setOf("http", "https")

        /** Request timeout, too early, too many requests. */
        private val PASSING = setOf(408, 425, 429)
    }
}
