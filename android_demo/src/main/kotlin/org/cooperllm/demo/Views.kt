package org.cooperllm.demo

import android.content.Context
import android.text.format.Formatter
import android.view.View

/** A part of a layout of ours; a missing one is a mistake in the layout. */
internal fun <T : View> View.find(id: Int): T = requireNotNull(findViewById<T>(id)) { "no such view in the layout" }

internal fun View.isShown(isShown: Boolean) {
    visibility = if (isShown) View.VISIBLE else View.GONE
}

/** A size as people read it; its unit never stands in a line of its own. */
internal fun Context.size(sizeBytes: Long): String = Formatter.formatShortFileSize(this, sizeBytes).replace(' ', NO_BREAK_SPACE)

private const val NO_BREAK_SPACE = '\u00A0'
