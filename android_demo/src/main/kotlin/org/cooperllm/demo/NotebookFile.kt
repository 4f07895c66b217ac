package org.cooperllm.demo

import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.nio.file.StandardOpenOption

/**
 * The notebook on disk, in the app's private storage: the old one or the new one, whatever happens to the process or the
 * power.
 *
 * It is written beside its place, flushed to the disk and renamed, and the folder is flushed too, because it is the folder
 * that holds the name. A file that cannot be read (its disk is failing) is put aside, not overwritten.
 */
internal class NotebookFile(
    private val file: File,
) {
    private val temporary = File(file.path + ".tmp")
    private val current = MutableStateFlow(read())

    val notebook: StateFlow<Notebook> = current.asStateFlow()

    /**
     * Applies a change, and answers the notebook after it. It is seen only once it lies on disk.
     *
     * Raises IOException when it cannot be written: the notebook is as it was.
     */
    @Synchronized
    fun change(action: (Notebook) -> Notebook): Notebook {
        val changed = action(current.value)
        if (changed != current.value) {
            write(NotebookJson.write(changed).toByteArray())
            current.value = changed
        }
        return changed
    }

    /** Deletes everything. */
    @Synchronized
    fun forget() {
        file.absoluteFile.parentFile
            ?.listFiles { found -> found.name.startsWith(file.name) }
            ?.forEach { it.delete() }
        current.value = Notebook()
    }

    private fun write(data: ByteArray) {
        val folder = checkNotNull(file.absoluteFile.parentFile)
        folder.mkdirs()
        try {
            FileOutputStream(temporary).use { stream ->
                stream.write(data)
                stream.fd.sync()
            }
            Files.move(temporary.toPath(), file.toPath(), StandardCopyOption.ATOMIC_MOVE)
            FileChannel.open(folder.toPath(), StandardOpenOption.READ).use { it.force(true) }
        } finally {
            temporary.delete()
        }
    }

    private fun read(): Notebook =
        try {
            if (file.exists()) NotebookJson.read(file.readText()) else Notebook()
        } catch (_: IOException) {
            putAside()
        } catch (_: IllegalArgumentException) {
            putAside()
        }

    private fun putAside(): Notebook {
        file.renameTo(File(file.path + ".damaged"))
        return Notebook()
    }
}
