package org.cooperllm.runtime.store

import org.cooperllm.runtime.StoreInUse
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.channels.FileLock
import java.nio.channels.OverlappingFileLockException
import java.nio.file.Files
import java.nio.file.StandardOpenOption

/** The folders of a store whose files are named by their SHA-256. */
internal enum class Kind(
    val folder: String,
) {
    ADAPTERS("adapters"),
    GUIDES("guides"),
    ARTIFACTS("artifacts"),
    BUNDLES("bundles"),
}

/**
 * What a device keeps on disk between two runs, written so that a crash at any moment loses at most the last write.
 *
 *     store/
 *       lock                     held while a process uses the folder
 *       key, key.copy            the device's private key, readable by its owner alone
 *       state, state.copy        everything small, as one document: see [State]
 *       progress                 scalars of the task under way: see [Progress]
 *       personal                 what personalising changed
 *       adapters/<sha256>        float32 bytes of the adapter version that the state names
 *       guides/<sha256>          encoded segments of the last task's guides: a record may name them
 *       artifacts/<sha256>       downloaded files; `.part` while they are on their way
 *       bundles/<sha256>/        a bundle's four files, by the hash of its manifest
 *
 * The files are those of the Python device: a folder written by either opens in the other. Every file (but progress,
 * which grows) is written beside its place, flushed to the disk, and then renamed: under its name there is either the old
 * content or the new one, never half of it. Reads check the hash; a file that fails is treated as absent and removed, so
 * that it is fetched or computed again. Key and state could not be: they are kept twice, so that damage to one file
 * forgets neither who the device is nor what it disclosed.
 *
 * Raises StoreInUse when the folder is in use already, StoreError when it cannot be used at all. Every function that
 * writes raises StoreFull when no space is left; what was there before stays intact. One thread at a time, but for
 * [update], [read] and [write]: guides arrive while directions are measured.
 */
internal class Store(
    private val folder: File,
    clockNs: () -> Long = System::nanoTime,
) : Closeable {
    private val lock: FileLock = lockFolder()
    private val updating = Any()

    /** The finished scalars of the task under way. */
    val progress: Progress

    /** What was last written; may be read from any thread. */
    @Volatile
    var state: State
        private set

    init {
        try {
            removeLeftovers()
            state = Durable.readSealedPair(file(STATE)) { State.fromBytes(it).writes }?.let(State::fromBytes) ?: State()
            progress = Progress(file("progress"), clockNs)
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /** Gives the folder back. Calling it again does nothing. */
    override fun close() = lock.acquiredBy().close()

    /** Writes the state with what [change] makes of it, all of it or nothing. Returns it. */
    fun update(change: (State) -> State): State =
        synchronized(updating) {
            val changed = change(state)
            if (changed == state) return state
            val next = changed.copy(writes = state.writes + 1)
            Durable.writeSealedPair(file(STATE), next.toBytes())
            state = next
            next
        }

    /** The device's private key as it was written, or null when there is none yet (or it was damaged). */
    fun readKey(): ByteArray? = Durable.readSealedPair(file(KEY))

    /** Keeps the device's private key, readable by its owner alone. */
    fun writeKey(key: ByteArray) = Durable.writeSealedPair(file(KEY), key)

    /** What personalising left, or null. */
    fun readPersonal(): ByteArray? = Durable.readSealed(file(PERSONAL))

    /** Keeps what personalising changed. */
    fun writePersonal(data: ByteArray) = Durable.writeSealed(file(PERSONAL), data)

    /** Deletes what personalising changed, and nothing else. */
    fun forgetPersonal() {
        Durable.delete(file(PERSONAL))
        Durable.syncFolder(folder)
    }

    /** Where the file of this hash lies or would lie. Raises IllegalArgumentException for what is no hash. */
    fun path(
        kind: Kind,
        sha256: String,
    ): File {
        require(sha256.length == HASH_DIGITS && sha256.all { it in '0'..'9' || it in 'a'..'f' }) { "no hash" }
        return File(folderOf(kind), sha256)
    }

    /** The bytes that have this hash, or null. A file that no longer has its hash is removed. */
    fun read(
        kind: Kind,
        sha256: String,
    ): ByteArray? {
        val file = path(kind, sha256)
        val data = Durable.readOrNull(file) ?: return null
        if (Durable.sha256(data) == sha256) return data
        Durable.delete(file)
        return null
    }

    /** Keeps bytes under their own hash, which it returns (hex). */
    fun write(
        kind: Kind,
        data: ByteArray,
    ): String {
        val sha256 = Durable.sha256(data)
        Durable.write(path(kind, sha256), data)
        return sha256
    }

    /** Removes all files of a kind but these, `.part` files included. */
    fun keepOnly(
        kind: Kind,
        names: Collection<String>,
    ) {
        for (file in folderOf(kind).listFiles().orEmpty()) if (file.name !in names) Durable.delete(file)
    }

    /**
     * Makes these float32 bytes the adapter version that the device holds. Returns their hash (hex).
     *
     * The bytes are safe on disk before the state names them, and the older ones go only after that.
     */
    fun writeAdapter(
        version: Long,
        data: ByteArray,
    ): String {
        val sha256 = write(Kind.ADAPTERS, data)
        update { it.copy(adapterVersion = version, adapterSha256 = sha256) }
        keepOnly(Kind.ADAPTERS, listOf(sha256))
        return sha256
    }

    /** The float32 bytes of the adapter version that [state] names, or null when they are absent or damaged. */
    fun readAdapter(): ByteArray? = state.adapterSha256.takeIf { it.isNotEmpty() }?.let { read(Kind.ADAPTERS, it) }

    /** Deletes everything but the lock: key, state, adapters, bundles, all. The next use starts anew. */
    fun forget() {
        // First what names the rest, so that a crash in between leaves nothing half known.
        for (name in listOf(STATE, KEY)) Durable.pairOf(file(name)).forEach(Durable::delete)
        Durable.delete(file(PERSONAL))
        progress.clear()
        state = State()
        for (kind in Kind.entries) keepOnly(kind, emptyList())
        Durable.syncFolder(folder)
    }

    /** Temporary files of a process that was killed while it wrote. */
    private fun removeLeftovers() {
        for (place in Kind.entries.map(::folderOf) + folder) {
            place.listFiles { file -> file.name.endsWith(Durable.TEMPORARY) }.orEmpty().forEach(Durable::delete)
        }
    }

    /** The system releases the lock when the process ends, however it ends. */
    private fun lockFolder(): FileLock {
        try {
            for (kind in Kind.entries) Files.createDirectories(folderOf(kind).toPath())
            val path = file("lock").toPath()
            val channel = Durable.openPrivate(path, StandardOpenOption.CREATE, StandardOpenOption.WRITE)
            return lockOrNull(channel) ?: run {
                channel.close()
                throw StoreInUse("$folder is in use already: stop what uses it or choose another folder")
            }
        } catch (error: IOException) {
            throw Durable.storeError(error, folder, "create")
        }
    }

    private fun lockOrNull(channel: FileChannel): FileLock? =
        try {
            channel.tryLock()
        } catch (_: OverlappingFileLockException) {
            null // by this very process
        }

    private fun file(name: String) = File(folder, name)

    private fun folderOf(kind: Kind) = File(folder, kind.folder)

    private companion object {
        const val STATE = "state"
        const val KEY = "key"
        const val PERSONAL = "personal"
        const val HASH_DIGITS = 64
    }
}
