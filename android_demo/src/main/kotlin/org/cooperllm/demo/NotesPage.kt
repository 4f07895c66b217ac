package org.cooperllm.demo

import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.view.accessibility.AccessibilityNodeInfo
import android.view.accessibility.AccessibilityNodeInfo.AccessibilityAction
import android.widget.BaseAdapter
import android.widget.Button
import android.widget.ImageView
import android.widget.ListView
import android.widget.TextView

/** The list of notes. One note may be open: its places can be tapped then. */
internal class NotesPage(
    list: ListView,
    private val onCheck: (id: Long, place: String) -> Unit,
    private val onDelete: (id: Long) -> Unit,
) : BaseAdapter() {
    private val inflater = LayoutInflater.from(list.context)
    private val top = inflater.inflate(R.layout.notes_top, list, false)
    private var notes: List<Note> = emptyList()

    /** The id of the note that is open. */
    var openId: Long? = null
        set(value) {
            field = value
            notifyDataSetChanged()
        }

    init {
        list.addHeaderView(top, null, false)
        list.adapter = this
    }

    fun show(
        notebook: Notebook,
        hasModel: Boolean?,
    ) {
        notes = notebook.notes
        top.find<View>(R.id.empty).isShown(notes.isEmpty())
        top.find<View>(R.id.no_sorter).isShown(notes.isNotEmpty() && hasModel == false)
        notifyDataSetChanged()
    }

    override fun getCount() = notes.size

    override fun getItem(position: Int) = notes[position]

    override fun getItemId(position: Int) = notes[position].id

    override fun hasStableIds() = true

    override fun areAllItemsEnabled() = false

    override fun isEnabled(position: Int) = false // the row itself is what is tapped

    override fun getView(
        position: Int,
        old: View?,
        parent: ViewGroup,
    ): View {
        val row = old ?: inflater.inflate(R.layout.note, parent, false)
        val note = notes[position]
        val isOpen = note.id == openId
        row.find<TextView>(R.id.text).text = note.text
        bindPlace(row, note)
        row.find<FlowLayout>(R.id.places).let { places ->
            places.isShown(isOpen)
            if (isOpen) fill(places, note) else places.removeAllViews()
        }
        row.setOnClickListener { openId = if (isOpen) null else note.id }
        val action = if (isOpen) R.string.notes_close else R.string.notes_change
        row.accessibilityDelegate = ClickNamed(row.context.getString(action))
        return row
    }

    private fun bindPlace(
        row: View,
        note: Note,
    ) {
        val context = row.context
        val place = note.place?.let { Places.name(context, it) }
        val shown = row.find<TextView>(R.id.place)
        row.find<ImageView>(R.id.mark).isShown(note.label != null)
        when {
            place == null -> {
                shown.setText(R.string.notes_unsorted)
                row.contentDescription = context.getString(R.string.notes_spoken_unsorted, note.text)
            }

            note.label != null -> {
                shown.text = place
                row.contentDescription = context.getString(R.string.notes_spoken_checked, note.text, place)
            }

            else -> {
                shown.text = context.getString(R.string.notes_guess, place)
                row.contentDescription = context.getString(R.string.notes_spoken_guess, note.text, place)
            }
        }
        shown.setTextColor(context.getColor(if (note.label == null) R.color.accent else R.color.ink_soft))
    }

    private fun fill(
        places: FlowLayout,
        note: Note,
    ) {
        places.removeAllViews()
        for (place in Places.NAMES.keys) {
            val chip = chip(places, Places.name(places.context, place))
            chip.isSelected = place == note.place
            chip.setOnClickListener {
                openId = null
                it.announceForAccessibility(
                    it.context.getString(R.string.notes_moved, Places.name(it.context, place)),
                )
                onCheck(note.id, place)
            }
        }
        val delete = inflater.inflate(R.layout.delete, places, false) as Button
        delete.setOnClickListener {
            openId = null
            onDelete(note.id)
        }
        places.addView(delete)
    }

    private fun chip(
        places: FlowLayout,
        name: String,
    ): Button {
        val chip = inflater.inflate(R.layout.chip, places, false) as Button
        chip.text = name
        places.addView(chip)
        return chip
    }

    /** Says what a double tap on the row does. */
    private class ClickNamed(
        private val name: String,
    ) : View.AccessibilityDelegate() {
        override fun onInitializeAccessibilityNodeInfo(
            host: View,
            info: AccessibilityNodeInfo,
        ) {
            super.onInitializeAccessibilityNodeInfo(host, info)
            info.addAction(AccessibilityAction(AccessibilityNodeInfo.ACTION_CLICK, name))
        }
    }
}
