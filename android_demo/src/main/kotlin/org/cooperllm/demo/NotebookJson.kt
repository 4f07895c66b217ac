package org.cooperllm.demo

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.buildJsonArray
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long

/** A notebook as JSON. */
internal object NotebookJson {
    private const val FORMAT = 1

    fun write(notebook: Notebook): String {
        val root =
            buildJsonObject {
                put("format", JsonPrimitive(FORMAT))
                put("is_taking_part", JsonPrimitive(notebook.isTakingPart))
                put("notes", buildJsonArray { notebook.notes.forEach { add(note(it)) } })
                put("scores", buildJsonArray { notebook.scores.forEach { add(score(it)) } })
            }
        return Json.encodeToString(JsonObject.serializer(), root)
    }

    /** Raises IllegalArgumentException when the text is no notebook of this format. */
    fun read(text: String): Notebook {
        try {
            val root = Json.parseToJsonElement(text).jsonObject
            require(root.field("format").jsonPrimitive.int == FORMAT) { "another format" }
            return Notebook(
                root.field("notes").jsonArray.map(::note),
                root.field("scores").jsonArray.map(::score),
                root.field("is_taking_part").jsonPrimitive.boolean,
            )
        } catch (error: SerializationException) {
            throw IllegalArgumentException(error)
        }
    }

    private fun note(note: Note) =
        buildJsonObject {
            put("id", JsonPrimitive(note.id))
            put("text", JsonPrimitive(note.text))
            put("written_ms", JsonPrimitive(note.writtenMs))
            put("first", JsonPrimitive(note.first))
            put("now", JsonPrimitive(note.now))
            put("label", JsonPrimitive(note.label))
        }

    private fun note(element: JsonElement): Note {
        val fields = element.jsonObject
        return Note(
            fields.field("id").jsonPrimitive.long,
            fields.field("text").jsonPrimitive.content,
            fields.field("written_ms").jsonPrimitive.long,
            fields["first"]?.jsonPrimitive?.contentOrNull,
            fields["now"]?.jsonPrimitive?.contentOrNull,
            fields["label"]?.jsonPrimitive?.contentOrNull,
        )
    }

    private fun score(score: Score) =
        buildJsonObject {
            put("version", JsonPrimitive(score.version))
            put("right", JsonPrimitive(score.right))
            put("all", JsonPrimitive(score.all))
        }

    private fun score(element: JsonElement): Score {
        val fields = element.jsonObject
        return Score(
            fields.field("version").jsonPrimitive.long,
            fields.field("right").jsonPrimitive.int,
            fields.field("all").jsonPrimitive.int,
        )
    }

    private fun JsonObject.field(name: String): JsonElement = requireNotNull(this[name].takeIf { it !is JsonNull }) { "no $name" }
}
