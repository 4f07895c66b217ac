package org.cooperllm.demo

import org.cooperllm.runtime.session.Example

/**
 * One note, and what is known about where it belongs.
 *
 * @property first what the sorter said the first time; null while it has said nothing
 * @property now what the sorter says with what it has learned so far
 * @property label what the user said; null while the user has not looked
 */
internal data class Note(
    val id: Long,
    val text: String,
    val writtenMs: Long,
    val first: String? = null,
    val now: String? = null,
    val label: String? = null,
) {
    /** Where the note is shown. */
    val place: String? get() = label ?: now
}

/** How many of the user's checked notes the sorter got right with an adapter version. */
internal data class Score(
    val version: Long,
    val right: Int,
    val all: Int,
)

/**
 * All that the app keeps about its user, as one value: changes make a new one.
 *
 * @property notes the newest first
 * @property scores one for each adapter version that came, the newest last
 * @property isTakingPart the consent; nothing is sent without it
 */
internal data class Notebook(
    val notes: List<Note> = emptyList(),
    val scores: List<Score> = emptyList(),
    val isTakingPart: Boolean = false,
) {
    val checked: List<Note> get() = notes.filter { it.label != null }

    /** What the sorter learns from: the notes whose place the user has said. */
    val examples: List<Example>
        get() = notes.mapNotNull { note -> note.label?.let { Example(note.text, it) } }

    /** With a note more; blank text changes nothing. */
    fun write(
        text: String,
        nowMs: Long,
    ): Notebook {
        val trimmed = text.trim()
        if (trimmed.isEmpty()) return this
        val id = (notes.maxOfOrNull { it.id } ?: 0) + 1
        return copy(notes = listOf(Note(id, trimmed, nowMs)) + notes)
    }

    /** With the user's word about a note. */
    fun check(
        id: Long,
        label: String,
    ): Notebook = change(id) { it.copy(label = label) }

    fun delete(id: Long): Notebook = copy(notes = notes.filter { it.id != id })

    /** With what the sorter says now about notes, by their id. */
    fun sorted(labels: Map<Long, String>): Notebook =
        copy(
            notes =
                notes.map { note ->
                    val said = labels[note.id] ?: return@map note
                    note.copy(first = note.first ?: said, now = said)
                },
        )

    /** With a score of the sorter as it is; one version has one score, its latest. */
    fun scored(version: Long): Notebook {
        val known = checked.filter { it.now != null }
        if (known.isEmpty()) return this
        val score = Score(version, known.count { it.now == it.label }, known.size)
        return copy(scores = (scores.filter { it.version != version } + score).takeLast(MOST_SCORES))
    }

    private fun change(
        id: Long,
        action: (Note) -> Note,
    ) = copy(notes = notes.map { if (it.id == id) action(it) else it })

    companion object {
        const val MOST_SCORES = 200
    }
}
