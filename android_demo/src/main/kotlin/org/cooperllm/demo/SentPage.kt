package org.cooperllm.demo

import android.text.format.DateUtils
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.ListView
import android.widget.TextView
import org.cooperllm.runtime.Disclosure
import java.text.NumberFormat

/** What left the phone, message by message, and the way out. */
internal class SentPage(
    list: ListView,
    onForget: () -> Unit,
) : BaseAdapter() {
    private val context = list.context
    private val inflater = LayoutInflater.from(context)
    private val top = inflater.inflate(R.layout.sent_top, list, false)
    private var messages: List<Disclosure> = emptyList()

    init {
        top.find<View>(R.id.forget).setOnClickListener { onForget() }
        list.addHeaderView(top, null, false)
        list.adapter = this
    }

    fun show(screen: SentScreen) {
        messages = screen.messages
        top.find<TextView>(R.id.total).text = if (messages.isEmpty()) none() else total(screen)
        top.find<View>(R.id.explanation).isShown(messages.isNotEmpty())
        notifyDataSetChanged()
    }

    private fun none() = context.getString(R.string.sent_none)

    private fun total(screen: SentScreen): String {
        val inMessages = plural(R.plurals.sent_messages, screen.messages.size)
        return context.getString(
            R.string.sent_total,
            plural(R.plurals.sent_numbers, screen.numbers) + " " + inMessages,
            context.size(screen.sizeBytes),
        )
    }

    private fun plural(
        id: Int,
        count: Int,
    ) = context.resources.getQuantityString(id, count, NumberFormat.getInstance().format(count.toLong()))

    override fun getCount() = messages.size

    override fun getItem(position: Int) = messages[position]

    override fun getItemId(position: Int) = position.toLong()

    override fun isEnabled(position: Int) = false // there is nothing to tap

    override fun getView(
        position: Int,
        old: View?,
        parent: ViewGroup,
    ): View {
        val row = old ?: inflater.inflate(R.layout.sent, parent, false)
        val message = messages[position]
        val moment =
            DateUtils.formatDateTime(
                context,
                message.whenMs.toLong(),
                DateUtils.FORMAT_SHOW_DATE or DateUtils.FORMAT_SHOW_TIME or DateUtils.FORMAT_ABBREV_ALL or
                    DateUtils.FORMAT_NO_YEAR,
            )
        val size = context.size(message.bytesSent.toLong())
        val numbers =
            if (message.scalars == 0) {
                context.getString(R.string.sent_no_numbers)
            } else {
                plural(R.plurals.sent_numbers, message.scalars)
            }
        val kind = context.getString(kind(message))
        row.find<TextView>(R.id.what).text = context.getString(R.string.sent_what, numbers, size)
        row.find<TextView>(R.id.`when`).text = context.getString(R.string.sent_when, moment, kind)
        row.contentDescription = context.getString(R.string.sent_row_spoken, moment, numbers, size, kind)
        // The list's own would call a row that does nothing disabled.
        row.accessibilityDelegate = View.AccessibilityDelegate()
        return row
    }

    private fun kind(message: Disclosure) =
        when {
            message.scalars == 0 -> R.string.sent_kind_refused
            message.kind == "evaluate" -> R.string.sent_kind_evaluate
            message.kind == "score_segments" -> R.string.sent_kind_score_segments
            else -> R.string.sent_kind_directions
        }
}
