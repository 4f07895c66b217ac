package org.cooperllm.runtime.store

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.StoreError

/** One segment of a guide on disk: its GuideEncoding, and the SHA-256 of its encoded bytes in hex. */
internal data class KeptPiece(
    val encoding: Int,
    val sha256: String,
)

/**
 * The small part of a device's state. Hashes are hex, "" means none.
 *
 * @property pendingReport a serialised Report in hex, until it is acknowledged
 * @property disclosed round -> scalars that left, and those of them in the head alone
 * @property evaluated round -> adapter that was evaluated
 * @property guides those kept: name -> segment -> its encoded bytes
 * @property disclosures what left, oldest first; the newest alone are kept
 * @property writes how often the state was written: of two copies the newer counts
 */
internal data class State(
    val bundleSha256: String = "",
    val adapterVersion: Long = 0,
    val adapterSha256: String = "",
    val pendingReport: String = "",
    val pendingRound: Long = 0,
    val disclosed: Map<String, List<Int>> = emptyMap(),
    val evaluated: Map<String, String> = emptyMap(),
    val guides: Map<String, Map<Int, KeptPiece>> = emptyMap(),
    val disclosures: List<Disclosure> = emptyList(),
    val writes: Long = 0,
) {
    /** One JSON object with the names that the Python device uses. */
    fun toBytes(): ByteArray {
        val fields =
            sortedMapOf(
                "adapter_sha256" to JsonPrimitive(adapterSha256),
                "adapter_version" to JsonPrimitive(adapterVersion),
                "bundle_sha256" to JsonPrimitive(bundleSha256),
                "disclosed" to lists(disclosed),
                "disclosures" to JsonArray(disclosures.map(::entry)),
                "evaluated" to JsonObject(evaluated.mapValues { JsonPrimitive(it.value) }),
                "guides" to JsonObject(guides.mapValues { (_, segments) -> pieces(segments) }),
                "pending_report" to JsonPrimitive(pendingReport),
                "pending_round" to JsonPrimitive(pendingRound),
                "writes" to JsonPrimitive(writes),
            )
        return JsonObject(fields).toString().toByteArray()
    }

    private fun lists(map: Map<String, List<Int>>): JsonObject =
        JsonObject(map.mapValues { (_, numbers) -> JsonArray(numbers.map(::JsonPrimitive)) })

    private fun pieces(segments: Map<Int, KeptPiece>): JsonObject {
        val entries =
            segments.entries.associate { (segment, piece) ->
                "$segment" to JsonArray(listOf(JsonPrimitive(piece.encoding), JsonPrimitive(piece.sha256)))
            }
        return JsonObject(entries)
    }

    /** Without names, as there may be many. */
    private fun entry(of: Disclosure): JsonArray =
        JsonArray(
            listOf(
                JsonPrimitive(of.whenMs),
                JsonPrimitive(of.round),
                JsonPrimitive(of.kind),
                JsonPrimitive(of.scalars),
                JsonPrimitive(of.headScalars),
                JsonPrimitive(of.bytesSent),
            ),
        )

    companion object {
        /** A report an hour for five days; every write of the state writes them all. */
        const val MOST_DISCLOSURES: Int = 128

        /**
         * Reads what [toBytes] or the Python device wrote. A field of a newer release is not ours to understand; one that
         * is absent has its default.
         *
         * Raises StoreError when a known field has another form: a newer release wrote it.
         */
        fun fromBytes(data: ByteArray): State {
            try {
                val fields = Json.parseToJsonElement(data.decodeToString()).jsonObject
                return State(
                    bundleSha256 = text(fields["bundle_sha256"]),
                    adapterVersion = number(fields["adapter_version"]),
                    adapterSha256 = text(fields["adapter_sha256"]),
                    pendingReport = text(fields["pending_report"]),
                    pendingRound = number(fields["pending_round"]),
                    disclosed = lists(fields["disclosed"]),
                    evaluated = fields["evaluated"]?.jsonObject.orEmpty().mapValues { text(it.value) },
                    guides = fields["guides"]?.jsonObject.orEmpty().mapValues { pieces(it.value.jsonObject) },
                    disclosures = fields["disclosures"]?.jsonArray.orEmpty().map { disclosure(it.jsonArray) },
                    writes = number(fields["writes"]),
                )
            } catch (error: SerializationException) {
                throw newer(error)
            } catch (error: IllegalArgumentException) {
                throw newer(error)
            }
        }

        private const val ENTRY_FIELDS = 6

        private fun text(element: JsonElement?): String = element?.jsonPrimitive?.content.orEmpty()

        private fun number(element: JsonElement?): Long = element?.jsonPrimitive?.long ?: 0

        private fun lists(element: JsonElement?): Map<String, List<Int>> =
            element?.jsonObject.orEmpty().mapValues { (_, list) -> list.jsonArray.map { it.jsonPrimitive.int } }

        private fun pieces(segments: JsonObject): Map<Int, KeptPiece> =
            segments.entries.associate { (segment, piece) ->
                val (encoding, sha256) = piece.jsonArray.map { it.jsonPrimitive }
                segment.toInt() to KeptPiece(encoding.int, sha256.content)
            }

        private fun disclosure(entry: JsonArray): Disclosure {
            if (entry.size < ENTRY_FIELDS) throw IllegalArgumentException("an entry of $ENTRY_FIELDS fields")
            val (whenMs, round, kind, scalars, headScalars) = entry.map { it.jsonPrimitive }
            val bytesSent = entry[ENTRY_FIELDS - 1].jsonPrimitive.int
            return Disclosure(whenMs.double, round.long, kind.content, scalars.int, headScalars.int, bytesSent)
        }

        private fun newer(error: Exception): StoreError =
            StoreError("the state on disk is of a newer release: update the app, or forget everything", error)
    }
}
