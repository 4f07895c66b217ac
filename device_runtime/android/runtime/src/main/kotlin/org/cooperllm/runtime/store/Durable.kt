package org.cooperllm.runtime.store

import org.cooperllm.runtime.StoreError
import org.cooperllm.runtime.StoreFull
import org.cooperllm.runtime.zo.toHex
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.NoSuchFileException
import java.nio.file.OpenOption
import java.nio.file.Path
import java.nio.file.StandardCopyOption
import java.nio.file.StandardOpenOption
import java.nio.file.attribute.PosixFilePermissions
import java.security.MessageDigest

/**
 * Files that are whole or absent, whatever happens to the process or the power; the formats of the Python device.
 *
 * A file is written beside its place, flushed to the disk and then renamed, and the folder is flushed too, because it is
 * the folder that holds the name. A sealed file begins with the SHA-256 of what follows. A sealed pair is two such files
 * of the same content, written one after the other: damage to either loses nothing.
 */
internal object Durable {
    /** What a name ends with while its file is not yet whole. */
    const val TEMPORARY: String = ".tmp"

    private const val LINE_END = '\n'.code.toByte()
    private val OWNER_ALONE = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------"))
    private val FULL = listOf("no space left", "enospc", "quota", "edquot", "file too large", "efbig")

    /** Puts bytes under a name: all of them or, whatever happens, none. Raises StoreFull or StoreError. */
    fun write(
        file: File,
        data: ByteArray,
    ) {
        replace(file, data)
        syncFolder(file.absoluteFile.parentFile)
    }

    /** A file's bytes, null where there is no such file. Raises StoreError when it cannot be read. */
    fun readOrNull(file: File): ByteArray? =
        try {
            Files.readAllBytes(file.toPath())
        } catch (_: NoSuchFileException) {
            null
        } catch (error: IOException) {
            throw storeError(error, file, "read")
        }

    /** Writes a sealed file. Raises as [write]. */
    fun writeSealed(
        file: File,
        data: ByteArray,
    ) = write(file, seal(data))

    /** What a sealed file holds, or null. A damaged one is removed. */
    fun readSealed(file: File): ByteArray? {
        val content = readOrNull(file) ?: return null
        val end = content.indexOf(LINE_END)
        val data = if (end < 0) ByteArray(0) else content.copyOfRange(end + 1, content.size)
        if (end >= 0 && content.copyOf(end).contentEquals(sha256(data).toByteArray())) return data
        delete(file)
        return null
    }

    /** The two files of a sealed pair, in the order in which they are written. */
    fun pairOf(file: File): List<File> = listOf(file, File(file.path + ".copy"))

    /** Writes both files, each whole before the next is begun. Raises as [write]. */
    fun writeSealedPair(
        file: File,
        data: ByteArray,
    ) {
        for (one in pairOf(file)) replace(one, seal(data))
        syncFolder(file.absoluteFile.parentFile)
    }

    /**
     * The newer content of a pair; that of its first file among equals. Null where neither file is whole.
     *
     * They differ only when the process ended between the two writes.
     */
    fun readSealedPair(
        file: File,
        newness: (ByteArray) -> Long = { 0 },
    ): ByteArray? = pairOf(file).mapNotNull(::readSealed).maxByOrNull(newness)

    /** Removes a file, or a folder with all in it, where there is one. Raises StoreError. */
    fun delete(file: File) {
        if (!file.deleteRecursively() && file.exists()) {
            throw StoreError("cannot delete $file: correct its permissions and start again")
        }
    }

    /** Makes a rename last: it is the folder, not the file, that holds the name. */
    fun syncFolder(folder: File) {
        try {
            FileChannel.open(folder.toPath(), StandardOpenOption.READ).use { it.force(true) }
        } catch (error: IOException) {
            throw storeError(error, folder, "write")
        }
    }

    /** Opens a file; one that this makes is its owner's alone. Raises IOException. */
    fun openPrivate(
        path: Path,
        vararg options: OpenOption,
    ): FileChannel = FileChannel.open(path, options.toSet(), OWNER_ALONE)

    /** Writes all bytes at an offset. Raises IOException. */
    fun writeFully(
        channel: FileChannel,
        data: ByteArray,
        offset: Long,
    ) {
        val left = ByteBuffer.wrap(data)
        while (left.hasRemaining()) channel.write(left, offset + left.position())
    }

    /** SHA-256 in hex. */
    fun sha256(data: ByteArray): String = MessageDigest.getInstance("SHA-256").digest(data).toHex()

    /** The one-line error for a failed read or write: StoreFull when space is what is missing. */
    fun storeError(
        error: IOException,
        file: File,
        action: String,
    ): StoreError {
        // Java has no error numbers; what it says is what the system says.
        val reason = error.message.orEmpty()
        if (FULL.any { reason.lowercase().contains(it) }) {
            return StoreFull("no space left to $action $file: free some and start again, nothing was lost", error)
        }
        val kind = error.javaClass.simpleName
        return StoreError("cannot $action $file: $kind $reason: correct it and start again, nothing was lost", error)
    }

    private fun replace(
        file: File,
        data: ByteArray,
    ) {
        val temporary = File(file.path + TEMPORARY).toPath()
        try {
            openPrivate(
                temporary,
                StandardOpenOption.CREATE,
                StandardOpenOption.TRUNCATE_EXISTING,
                StandardOpenOption.WRITE,
            ).use { channel ->
                writeFully(channel, data, 0)
                channel.force(true)
            }
            Files.move(temporary, file.toPath(), StandardCopyOption.ATOMIC_MOVE)
        } catch (error: IOException) {
            temporary.toFile().delete()
            throw storeError(error, file, "write")
        }
    }

    private fun seal(data: ByteArray): ByteArray = sha256(data).toByteArray() + LINE_END + data
}
