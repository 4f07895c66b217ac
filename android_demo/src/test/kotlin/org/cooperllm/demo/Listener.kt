package org.cooperllm.demo

import java.io.Closeable
import java.io.IOException
import java.net.InetAddress
import java.net.ServerSocket
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import kotlin.concurrent.thread

/** A real socket in the service's place, which hears whether anybody knocks. */
internal class Listener : Closeable {
    private val socket = ServerSocket(0, BACKLOG, InetAddress.getLoopbackAddress())
    private val knocks = AtomicInteger()
    private val heard = CountDownLatch(1)

    val address: String get() = "127.0.0.1:${socket.localPort}"
    val connections: Int get() = knocks.get()

    @Volatile
    var failure: Throwable? = null
        private set

    init {
        thread(isDaemon = true, name = "listener") {
            try {
                while (true) {
                    socket.accept().use { one ->
                        knocks.incrementAndGet()
                        if (one.getInputStream().read() >= 0) heard.countDown()
                    }
                }
            } catch (error: IOException) {
                if (!socket.isClosed) failure = error
            }
        }
    }

    fun awaitBytes() = check(heard.await(LONGEST_S, TimeUnit.SECONDS)) { "nothing was sent" }

    override fun close() = socket.close()

    private companion object {
        const val BACKLOG = 8
        const val LONGEST_S = 30L
    }
}
