package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.firstOrNull
import org.cooperllm.protos.Guide
import org.cooperllm.protos.GuideChunk
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.zo.Layout

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

/**
 * All guides of one task, on their way but for those that are here. [stream] gives the chunks from a position on.
 *
 * Every piece is on disk, encoded, before anybody hears of it, so that a broken session goes on behind it.
 *
 * Raises UnsupportedTask when the guides are of another adapter.
 */
internal class Arrivals(
    announced: List<Guide>,
    layout: Layout,
    private val keeper: PieceKeeper,
    private val stream: (GuidePosition) -> Flow<GuideChunk>,
) {
    private val assembly = GuideAssembly(announced, layout, keeper::isHere)

    /**
     * Takes chunks until all is here; a piece that contradicts itself is streamed once more, from its first byte.
     *
     * Raises what ends the stream, and BadArtifact where a piece arrived altered twice.
     */
    suspend fun receive() {
        var isLast = false
        while (!assembly.isComplete) {
            try {
                stream(assembly.position).firstOrNull { chunk ->
                    assembly.add(chunk)?.let {
                        keeper.keep(it)
                        isLast = false
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
}
