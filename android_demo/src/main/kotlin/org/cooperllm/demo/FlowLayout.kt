package org.cooperllm.demo

import android.content.Context
import android.util.AttributeSet
import android.view.View
import android.view.ViewGroup

/** Puts its children beside each other, and into a new line where one does not fit: for large fonts and long languages. */
internal class FlowLayout(
    context: Context,
    attributes: AttributeSet?,
) : ViewGroup(context, attributes) {
    private val gapPx = (GAP_DP * resources.displayMetrics.density).toInt()

    override fun onMeasure(
        widthMeasureSpec: Int,
        heightMeasureSpec: Int,
    ) {
        val widthPx = MeasureSpec.getSize(widthMeasureSpec)
        val inside = MeasureSpec.makeMeasureSpec(widthPx, MeasureSpec.AT_MOST)
        val free = MeasureSpec.makeMeasureSpec(0, MeasureSpec.UNSPECIFIED)
        shown().forEach { it.measure(inside, free) }
        val heightPx = flow(widthPx) { _, _, _ -> }
        setMeasuredDimension(widthPx, resolveSize(heightPx, heightMeasureSpec))
    }

    override fun onLayout(
        changed: Boolean,
        left: Int,
        top: Int,
        right: Int,
        bottom: Int,
    ) {
        val isFromRight = layoutDirection == LAYOUT_DIRECTION_RTL
        flow(right - left) { child, x, y ->
            val startPx = if (isFromRight) right - left - x - child.measuredWidth else x
            child.layout(startPx, y, startPx + child.measuredWidth, y + child.measuredHeight)
        }
    }

    /** Walks the lines; answers their height. */
    private fun flow(
        widthPx: Int,
        place: (View, Int, Int) -> Unit,
    ): Int {
        var x = 0
        var y = 0
        var linePx = 0
        for (child in shown()) {
            if (x > 0 && x + child.measuredWidth > widthPx) {
                x = 0
                y += linePx
                linePx = 0
            }
            place(child, x, y)
            x += child.measuredWidth + gapPx
            linePx = maxOf(linePx, child.measuredHeight)
        }
        return y + linePx
    }

    private fun shown() = (0 until childCount).map(::getChildAt).filter { it.visibility != GONE }

    private companion object {
        const val GAP_DP = 8
    }
}
