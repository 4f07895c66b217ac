package org.cooperllm.demo

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.Canvas
import java.awt.image.BufferedImage
import java.awt.image.DataBuffer
import java.awt.image.IndexColorModel
import java.io.File
import javax.imageio.ImageIO

/** Draws screens as a phone would, and keeps them as PNG files where [folder] names a place for them. */
internal class Pictures(
    private val folder: File?,
) {
    private class Taken(
        val name: String,
        val pixels: IntArray,
        val width: Int,
    )

    /** Whether anybody will look at them. */
    val isKept: Boolean = folder != null

    private val taken = mutableListOf<Taken>()

    /** Draws the activity's window. Its pixels differ from one colour, or the picture is refused. */
    fun take(
        activity: Activity,
        name: String,
    ) {
        settle()
        val window = activity.window.decorView
        val bitmap = Bitmap.createBitmap(window.width, window.height, Bitmap.Config.ARGB_8888)
        window.draw(Canvas(bitmap))
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        check(pixels.toSet().size > 8) { "$name shows nothing" }
        taken += Taken(name, pixels, bitmap.width)
    }

    /** Writes what was taken; not at once, since what is shown goes on meanwhile. */
    fun write() {
        if (folder == null) return
        folder.mkdirs()
        for (one in taken) ImageIO.write(inFewColors(one), "png", File(folder, "${one.name}.png"))
    }

    /** With the 256 most frequent colours: text's soft edges have more, which nobody can tell apart. */
    private fun inFewColors(picture: Taken): BufferedImage {
        val (pixels, width) = picture.pixels to picture.width
        val counts = pixels.toList().groupingBy { it }.eachCount()
        val kept =
            counts.entries
                .sortedByDescending { it.value }
                .take(MOST_COLORS)
                .map { it.key }
        val nearest = counts.keys.associateWith { color -> kept.indices.minByOrNull { distance(kept[it], color) } ?: 0 }
        val model = IndexColorModel(BITS, kept.size, kept.toIntArray(), 0, false, -1, DataBuffer.TYPE_BYTE)
        val image = BufferedImage(width, pixels.size / width, BufferedImage.TYPE_BYTE_INDEXED, model)
        pixels.forEachIndexed { i, color ->
            image.raster.setSample(i % width, i / width, 0, nearest.getValue(color))
        }
        return image
    }

    private fun distance(
        one: Int,
        other: Int,
    ) = CHANNELS.sumOf { shift -> ((one shr shift and BYTE) - (other shr shift and BYTE)).let { it * it } }

    private companion object {
        const val MOST_COLORS = 256
        const val BITS = 8
        const val BYTE = 255
        val CHANNELS = listOf(0, 8, 16)
    }
}
