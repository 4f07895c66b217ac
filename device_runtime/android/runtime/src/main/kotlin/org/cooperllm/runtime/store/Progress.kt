package org.cooperllm.runtime.store

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.double
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.io.File
import java.io.IOException
import java.nio.file.StandardOpenOption

/**
 * The scalars of a task under way, direction by direction, in a file that grows.
 *
 *     <seal> {"task_id": "..."}\n          the first line
 *     <seal> [0.125, -2.5]\n               one line for every group of directions that was finished
 *
 * A seal is the first 16 hex digits of SHA-256(seal of the line before, text of this line). So a file that was cut or
 * altered anywhere still gives every whole line before that place, and nothing behind it.
 *
 * A line is handed to the system at once: what ends the process alone loses none. It is forced to the disk at most once
 * a second, because that may cost more than a direction: a loss of power costs the last second.
 *
 * [clockNs] is a monotonic clock. Every function that writes raises StoreFull or StoreError.
 */
internal class Progress(
    private val file: File,
    private val clockNs: () -> Long = System::nanoTime,
) {
    private var kept = read(Durable.readOrNull(file) ?: ByteArray(0))
    private var syncedNs = clockNs()

    /** What was finished of a task: nothing, where the file is of another. */
    fun of(taskId: String): List<Double> =
        if (taskId.isNotEmpty() && taskId == kept.taskId) kept.scalars else emptyList()

    /** Keeps the next scalars of a task; those of any other task go. */
    fun add(
        taskId: String,
        scalars: List<Double>,
    ) {
        val isNew = taskId != kept.taskId || kept.sizeBytes == 0L
        val head = JsonObject(mapOf("task_id" to JsonPrimitive(taskId))).toString()
        val before = if (isNew) Lines(taskId).plus(head) else kept
        val after = before.plus(JsonArray(scalars.map(::JsonPrimitive)).toString(), scalars)
        val offset = if (isNew) 0 else kept.sizeBytes
        write(offset, (if (isNew) before.lastLine + after.lastLine else after.lastLine).toByteArray())
        kept = after
    }

    /** Forgets everything: the task is reported or lost. */
    fun clear() {
        Durable.delete(file)
        kept = Lines()
    }

    /** Writes behind the last whole line, whatever an interrupted write left there. */
    private fun write(
        offset: Long,
        data: ByteArray,
    ) {
        try {
            Durable.openPrivate(file.toPath(), StandardOpenOption.CREATE, StandardOpenOption.WRITE).use { channel ->
                channel.truncate(offset)
                Durable.writeFully(channel, data, offset)
                if (clockNs() - syncedNs < SYNC_INTERVAL_NS) return
                channel.force(true)
            }
        } catch (error: IOException) {
            throw Durable.storeError(error, file, "write")
        }
        Durable.syncFolder(file.absoluteFile.parentFile)
        syncedNs = clockNs()
    }

    private fun read(bytes: ByteArray): Lines {
        var lines = Lines()
        var start = 0
        for (end in bytes.indices) {
            if (bytes[end] != LINE_END) continue
            val line = bytes.copyOfRange(start, end).decodeToString()
            val text = line.substringAfter(' ', "")
            val isFirst = lines.sizeBytes == 0L
            if (lines.sealOf(text) != line.substringBefore(' ')) break
            val content = Json.parseToJsonElement(text)
            lines =
                if (isFirst) {
                    Lines(
                        content.jsonObject
                            .getValue("task_id")
                            .jsonPrimitive.content,
                    ).plus(text)
                } else {
                    lines.plus(text, content.jsonArray.map { it.jsonPrimitive.double })
                }
            start = end + 1
        }
        return lines
    }

    /** The whole lines at the file's beginning. */
    private class Lines(
        val taskId: String = "",
        val scalars: List<Double> = emptyList(),
        val sizeBytes: Long = 0,
        val lastLine: String = "",
        private val seal: String = "",
    ) {
        fun plus(
            text: String,
            fresh: List<Double> = emptyList(),
        ): Lines {
            val next = sealOf(text)
            val line = "$next $text\n"
            return Lines(taskId, scalars + fresh, sizeBytes + line.toByteArray().size, line, next)
        }

        fun sealOf(text: String): String = Durable.sha256((seal + text).toByteArray()).take(SEAL_DIGITS)
    }

    private companion object {
        const val SYNC_INTERVAL_NS = 1_000_000_000L
        const val SEAL_DIGITS = 16
        const val LINE_END = '\n'.code.toByte()
    }
}
