package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.Guide
import org.cooperllm.runtime.store.KeptPiece
import org.cooperllm.runtime.store.Kind
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.toHex

/**
 * The guides of the last task on disk, segment by segment, encoded as they came: each under the hash of its own bytes. So
 * is the adapter version that came with them, under its own name.
 *
 * The record that leads to the next version may name them, a session that was ended goes on behind them, and a group of
 * directions decodes again what an earlier one used.
 */
internal class KeptGuides(
    private val store: Store,
    private val layout: Layout,
) : PieceKeeper {
    /** All of a guide that was kept, or null. Raises BadArtifact where it cannot be decoded. */
    fun guide(name: ByteString): Slices? {
        val segments =
            store.state.guides[hex(name)]
                ?.keys
                .orEmpty()
        if (segments.isEmpty()) return null
        return segments.associateWith { segment ->
            FloatVector.allocate(layout.segmentCount(segment)).also { if (!read(name, segment, it)) return null }
        }
    }

    /** Writes one segment of a guide that was kept to [into]; false where it is not here. Raises as [guide]. */
    fun read(
        name: ByteString,
        segment: Int,
        into: FloatVector,
    ): Boolean {
        val kept = piece(name, segment) ?: return false
        GuideAssembly.decode(kept.encoding, kept.data, layout.segmentCount(segment), into)
        return true
    }

    /** One segment of a guide or a version as it came; null where it was not kept, or was damaged since. */
    fun piece(
        name: ByteString,
        segment: Int,
    ): Piece? {
        val kept = store.state.guides[hex(name)]?.get(segment) ?: return null
        return store.read(Kind.GUIDES, kept.sha256)?.let { Piece(name, segment, kept.encoding, it) }
    }

    /** Lets go of all that these do not name. */
    fun keepOnly(announced: List<Guide>) {
        val names = announced.map { hex(it.sha256) }.toSet()
        keepOnly { it in names }
    }

    /** Lets go of what has this name: it arrived as it was sent, and is of no use. */
    fun drop(name: ByteString) {
        val dropped = hex(name)
        keepOnly { it != dropped }
    }

    private fun keepOnly(isKept: (name: String) -> Boolean) {
        val kept = store.update { it.copy(guides = it.guides.filterKeys(isKept)) }.guides
        store.keepOnly(Kind.GUIDES, kept.values.flatMap { segments -> segments.values.map { it.sha256 } }.toSet())
    }

    override fun isHere(
        guide: ByteString,
        segment: Int,
    ): Boolean = piece(guide, segment) != null

    override fun keep(piece: Piece) {
        GuideAssembly.check(piece, layout.segmentCount(piece.segment))
        val kept = KeptPiece(piece.encoding, store.write(Kind.GUIDES, piece.data))
        val name = hex(piece.guide)
        store.update { state ->
            val segments = state.guides[name].orEmpty() + (piece.segment to kept)
            state.copy(guides = state.guides + (name to segments))
        }
    }

    private fun hex(name: ByteString) = name.toByteArray().toHex()
}
