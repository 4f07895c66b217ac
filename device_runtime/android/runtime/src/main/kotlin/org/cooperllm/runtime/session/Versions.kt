package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import org.cooperllm.protos.EncodedGuide
import org.cooperllm.protos.Record
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.BadVersion
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.TaskRefused
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.bundle.Safetensors
import org.cooperllm.runtime.update.Core
import org.cooperllm.runtime.zo.AdapterVersion
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.Update
import java.io.File

/** What this device kept of earlier rounds, by hash. */
internal interface Held {
    /** A guide, or null when it was not kept, or damaged since. */
    fun guide(sha256: ByteString): Slices?

    /** The scale with this hash. Raises BadArtifact when it is no scale for this adapter. */
    suspend fun scale(sha256: ByteString): FloatVector

    /** A file with these bytes. Raises ArtifactError or ServerError. */
    suspend fun fetch(
        sha256: ByteString,
        sizeBytes: Long,
    ): File
}

/**
 * Reaching an adapter version by whichever exact form the cloud sent: record, delta, snapshot, or none at all.
 *
 * Whatever the form, what results must have the SHA-256 that was promised; nothing is kept before that is so.
 */
internal class Versions(
    private val core: Core,
    private val layout: Layout,
    private val held: Held,
) {
    /**
     * Turns the adapter in the core into the version that [update] leads to. [heldVersion] is the version in the core
     * now, or null when it is of no use as a start.
     *
     * Raises BadVersion when the form does not lead there: the adapter is then as it was. Ask for a snapshot.
     */
    suspend fun reach(
        update: VersionUpdate,
        heldVersion: Long?,
    ) {
        val before = core.adapter.copy()
        var reached = false
        try {
            follow(update, heldVersion)
            if (!AdapterVersion.sha256(core.adapter).contentEquals(update.adapterSha256.toByteArray())) {
                throw BadVersion("the update does not lead to the adapter it names: ask for a snapshot")
            }
            reached = true
        } catch (error: NotEnrolled) {
            throw error
        } catch (error: TaskRefused) {
            throw error as? BadVersion ?: bad(error)
        } catch (error: ArtifactError) {
            throw bad(error)
        } catch (error: BundleError) {
            throw bad(error)
        } catch (error: ServerRefused) {
            throw bad(error)
        } finally {
            if (!reached) core.adapter.copyFrom(before)
        }
    }

    private suspend fun follow(
        update: VersionUpdate,
        heldVersion: Long?,
    ) {
        val form = update.formCase
        val builds = form == VersionUpdate.FormCase.RECORDS || form == VersionUpdate.FormCase.DELTA
        if (builds && heldVersion != update.fromVersion) {
            throw BadVersion("the update starts from version ${update.fromVersion}, which this device does not hold")
        }
        when (form) {
            VersionUpdate.FormCase.RECORDS -> {
                val sent = update.records.guidesList.associateBy { it.sha256 }
                for (record in update.records.recordList) replay(record, sent)
            }

            VersionUpdate.FormCase.DELTA -> {
                val delta = held.fetch(update.delta.sha256, update.delta.sizeBytes)
                AdapterVersion.applyDelta(delta.readBytes(), core.adapter, layout)
            }

            VersionUpdate.FormCase.SNAPSHOT -> {
                val snapshot = held.fetch(update.snapshot.sha256, update.snapshot.sizeBytes)
                core.adapter.copyFrom(Bundle.readAdapter(snapshot, layout))
            }

            VersionUpdate.FormCase.UNCHANGED -> {
                Unit
            }

            else -> {
                throw BadVersion("the update has no form that this release knows: update the app")
            }
        }
    }

    private fun decoded(guide: EncodedGuide): Slices =
        guide.segmentsList.associate { piece ->
            val count = layout.segmentCount(piece.segment)
            if (count == 0) throw BadVersion("a guide names a segment without parameters: ask for a snapshot")
            val values = FloatVector.allocate(count)
            GuideAssembly.decode(piece.encodingValue, piece.data.toByteArray(), count, values)
            piece.segment to values
        }

    /**
     * Applies one record; [sent] are guides that came with it, of which only those that it names are decoded. Raises
     * TaskRefused when this device lacks what it names.
     */
    private suspend fun replay(
        record: Record,
        sent: Map<ByteString, EncodedGuide>,
    ) {
        val scale = if (record.scaleSha256.isEmpty) null else held.scale(record.scaleSha256)
        val terms = record.directionsList.flatMap { it.guidesList } + record.guidesList
        val guides =
            terms.map { it.guideSha256 }.distinct().associateWith {
                sent[it]?.let(::decoded) ?: held.guide(it)
                    ?: throw BadVersion("a record names a guide that this device does not hold: ask for a snapshot")
            }
        if (record.directionsList.sumOf { it.count.toLong() and 0xFFFFFFFFL } > MOST_RECORD_DIRECTIONS) {
            throw BadVersion("a record has over $MOST_RECORD_DIRECTIONS directions: ask for a snapshot")
        }
        val expansion = Expansion(scale, guides, layout)
        val directions = expansion.directions(record.directionsList, record.activeSegmentsList)
        core.update(
            Update(
                record.epsilon,
                record.updateSeed,
                directions.map { it.direction },
                record.coefficientsList.toDoubleArray(),
                record.guidesList.map { expansion.term(it.guideSha256, it.coefficient) },
                record.activeSegmentsList.toIntArray(),
            ),
        )
    }

    private fun bad(error: Exception) = BadVersion(error.message.orEmpty(), error)

    companion object {
        /** Of one record, over all devices of a round. */
        private const val MOST_RECORD_DIRECTIONS = 1L shl 24
        private const val SCALE = "scale"

        /** The scale in a .safetensors file: float32 (n), every value positive and finite. Raises BadArtifact. */
        fun readScale(
            file: File,
            parameters: Int,
        ): FloatVector {
            val source =
                try {
                    Safetensors.open(file)
                } catch (error: BundleError) {
                    throw BadArtifact("the scale is no readable safetensors file: send another", error)
                }
            if (source.tensors[SCALE]?.isFloat32(intArrayOf(parameters)) != true) {
                throw BadArtifact("the scale is not float32 of length $parameters: send another")
            }
            val scale = FloatVector.allocate(parameters)
            source.read(SCALE, scale, 0)
            val values = FloatArray(parameters)
            scale.read(0, values, parameters)
            if (!values.all { it.isFinite() && it > 0 }) {
                throw BadArtifact("the scale has values that are not positive and finite: send another")
            }
            return scale
        }
    }
}
