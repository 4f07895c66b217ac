package org.cooperllm.demo

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Path
import android.util.AttributeSet
import android.util.TypedValue
import android.view.View
import kotlin.math.roundToInt

/** A line from how many notes were in the right place at first to how many are now. */
internal class AccuracyChart(
    context: Context,
    attributes: AttributeSet?,
) : View(context, attributes) {
    private val dp = resources.displayMetrics.density
    private val line =
        Paint(Paint.ANTI_ALIAS_FLAG).apply {
            color = context.getColor(R.color.accent)
            strokeWidth = 2 * dp
            style = Paint.Style.STROKE
            strokeJoin = Paint.Join.ROUND
        }
    private val dot = Paint(line).apply { style = Paint.Style.FILL }
    private val grid =
        Paint().apply {
            color = context.getColor(R.color.line)
            strokeWidth = dp
        }
    private val ground = Paint().apply { color = context.getColor(R.color.card) }
    private val small = text(R.color.ink_soft, SMALL_SP)
    private val large = text(R.color.ink, LARGE_SP)
    private val path = Path()
    private var shares: List<Double> = emptyList()

    private fun text(
        colorId: Int,
        sizeSp: Int,
    ) = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = context.getColor(colorId)
        textSize = TypedValue.applyDimension(TypedValue.COMPLEX_UNIT_SP, sizeSp.toFloat(), resources.displayMetrics)
    }

    fun show(chart: Chart) {
        shares = chart.shares
        contentDescription =
            context.getString(R.string.chart_spoken, percent(shares.first()), percent(shares.last()))
        invalidate()
    }

    override fun onMeasure(
        widthMeasureSpec: Int,
        heightMeasureSpec: Int,
    ) {
        val wantedPx = PLOT_DP * dp + topPx() + bottomPx()
        setMeasuredDimension(MeasureSpec.getSize(widthMeasureSpec), resolveSize(wantedPx.toInt(), heightMeasureSpec))
    }

    override fun onDraw(canvas: Canvas) {
        if (shares.isEmpty()) return
        for (share in GRID) canvas.drawLine(0f, yOf(share), width.toFloat(), yOf(share), grid)
        path.rewind()
        shares.forEachIndexed { i, share ->
            if (i == 0) path.moveTo(xOf(i), yOf(share)) else path.lineTo(xOf(i), yOf(share))
        }
        canvas.drawPath(path, line)
        mark(canvas, 0, R.string.chart_first, Paint.Align.LEFT)
        mark(canvas, shares.lastIndex, R.string.chart_now, Paint.Align.RIGHT)
    }

    /** A dot, its percentage above and its name below the plot. */
    private fun mark(
        canvas: Canvas,
        index: Int,
        nameId: Int,
        align: Paint.Align,
    ) {
        val y = yOf(shares[index])
        val edge = if (align == Paint.Align.LEFT) 0f else width.toFloat()
        canvas.drawCircle(xOf(index), y, DOT_DP * dp, dot)
        large.textAlign = align
        small.textAlign = align
        val said = context.getString(R.string.chart_percent, percent(shares[index]))
        val base = y - (DOT_DP + GAP_DP) * dp
        val left = if (align == Paint.Align.LEFT) edge else edge - large.measureText(said)
        // So that no line of the grid goes through the number.
        canvas.drawRect(left, base + large.fontMetrics.ascent, left + large.measureText(said), base, ground)
        canvas.drawText(said, edge, base, large)
        canvas.drawText(context.getString(nameId), edge, height - small.fontMetrics.descent, small)
    }

    private fun topPx() = large.fontSpacing + (DOT_DP + GAP_DP) * dp

    private fun bottomPx() = small.fontSpacing + GAP_DP * dp

    private fun yOf(share: Double) = (topPx() + (height - topPx() - bottomPx()) * (1 - share)).toFloat()

    private fun xOf(index: Int): Float {
        val edge = DOT_DP * dp
        return edge + (width - 2 * edge) * index / maxOf(1, shares.lastIndex)
    }

    private fun percent(share: Double) = (share * 100).roundToInt()

    private companion object {
        const val PLOT_DP = 112
        const val DOT_DP = 4
        const val GAP_DP = 6
        const val SMALL_SP = 14
        const val LARGE_SP = 20
        val GRID = listOf(0.0, 0.5, 1.0)
    }
}
