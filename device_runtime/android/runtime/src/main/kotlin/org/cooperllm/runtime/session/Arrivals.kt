package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.firstOrNull
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.Stopped
import org.cooperllm.runtime.zo.Layout
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/** Where pieces of guides are kept. */
internal interface PieceKeeper {
    /** Whether a segment of a guide is here, undamaged. */
    fun isHere(
        guide: ByteString,
        segment: Int,
    ): Boolean

    /** Keeps a segment of a guide. Raises BadArtifact where it cannot be decoded. */
    fun keep(piece: Piece)
}

/** When a piece of a segment arrived, from its first byte to its last; [name] is that of its span. */
internal class Arrival(
    val name: String,
    val segment: Int,
    val startMs: Double,
    val endMs: Double,
)

/**
 * All guides of one task, on their way but for those that are here: one coroutine takes them off the wire, another
 * thread waits for the segment that it needs. [stream] gives the chunks from a position on. What has the name [version]
 * among those announced is the adapter version that they are about.
 *
 * Every piece is on disk, encoded, before anybody hears of it, so that it is there again for the next group of directions
 * and for the record that names it, and so that a broken session goes on behind it.
 *
 * Raises UnsupportedTask when the guides are of another adapter.
 */
internal class Arrivals(
    announced: List<Guide>,
    layout: Layout,
    private val keeper: PieceKeeper,
    private val clockMs: () -> Double,
    private val version: ByteString = ByteString.EMPTY,
    private val stream: (GuidePosition) -> Flow<GuideChunk>,
) {
    private val assembly = GuideAssembly(announced, layout, version, keeper::isHere)
    private val gate = ReentrantLock()
    private val changed = gate.newCondition()

    /** How many pieces are missing, by segment. */
    private val missing = assembly.missingPieces().toMutableMap()
    private var failure: Exception? = null
    private var arrived = mutableListOf<Arrival>()

    /** Receives, and tells those who wait of whatever ends it. */
    suspend fun run() {
        try {
            receive()
        } catch (cancelled: CancellationException) {
            throw cancelled
        } catch (error: Exception) {
            gate.withLock {
                failure = error
                changed.signalAll()
            }
        }
    }

    /**
     * Takes chunks until all is here; a piece that contradicts itself is streamed once more, from its first byte.
     *
     * Raises what ends the stream, and BadArtifact where a piece arrived altered twice.
     */
    suspend fun receive() {
        var isLast = false
        while (!assembly.isComplete) {
            var startMs = clockMs()
            try {
                stream(assembly.position).firstOrNull { chunk ->
                    if (chunk.offsetBytes == 0L) startMs = clockMs()
                    assembly.add(chunk)?.let {
                        keeper.keep(it)
                        isLast = false
                        val name = if (it.guide == version) "version_arrived" else "guide_arrived"
                        tell(Arrival(name, it.segment, startMs, clockMs()))
                    }
                    assembly.isComplete
                } ?: throw ArtifactError("segments of a guide are missing: stream the guides again")
            } catch (error: ArtifactError) {
                if (isLast) throw BadArtifact(error.message.orEmpty(), error)
                isLast = true
                assembly.drop()
            }
        }
    }

    /** Whether all guides' pieces of a segment are here. */
    fun isHere(segment: Int): Boolean = gate.withLock { segment !in missing }

    /**
     * Returns once all guides' pieces of a segment are here; [goesOn] is asked meanwhile.
     *
     * Raises what ended the stream, BadArtifact where a piece arrived altered twice, and Stopped.
     */
    fun awaitSegment(
        segment: Int,
        goesOn: () -> Boolean,
    ) = gate.withLock {
        while (segment in missing) {
            failure?.let { throw it }
            if (!goesOn()) throw Stopped("stopped: call again to go on")
            changed.await(WAIT_MS, TimeUnit.MILLISECONDS)
        }
    }

    /** What arrived since the last call. */
    fun takeArrived(): List<Arrival> = gate.withLock { arrived.also { arrived = mutableListOf() } }

    private fun tell(arrival: Arrival) =
        gate.withLock {
            arrived += arrival
            val left = missing.getValue(arrival.segment) - 1
            if (left == 0) missing -= arrival.segment else missing[arrival.segment] = left
            changed.signalAll()
        }

    private companion object {
        /** Between two looks at whether work was stopped. */
        const val WAIT_MS = 100L
    }
}
