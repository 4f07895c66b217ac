package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.Guide
import org.cooperllm.protos.Task
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.ArtifactError
import org.cooperllm.runtime.BadArtifact
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.store.Kind
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.toHex
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What a device holds for its tasks, and how it gets what is missing: bundle, adapter version, scale, guides.
 *
 * Everything is named by its SHA-256, kept in the store, and fetched only when it is not there or was damaged.
 */
internal class Holdings(
    private val store: Store,
    private val cloud: Cloud,
    private val makeEngine: (Bundle) -> Engine,
) : Held {
    private val bundles = Bundles(store, cloud)
    private val loading = Mutex()
    private var scale: Pair<ByteString, FloatVector>? = null

    @Volatile
    var engine: Engine? = null
        private set

    // --- bundle -------------------------------------------------------------------------------------------------------

    /** The bundle that is here, "" for none. */
    fun bundleSha256(): String {
        val sha256 = store.state.bundleSha256
        return if (sha256.isNotEmpty() && store.path(Kind.BUNDLES, sha256).isDirectory) sha256 else ""
    }

    /**
     * The engine of a bundle, fetched first where it is missing or damaged.
     *
     * Raises BundleError when what the cloud serves under this hash is no bundle for this release.
     */
    suspend fun load(sha256: String): Engine =
        loading.withLock {
            val loaded = engine
            if (loaded != null && loaded.bundle.sha256 == sha256) return loaded
            closeEngine() // lets the memory of the former go before the next is loaded
            make(sha256).also { engine = it }
        }

    /** Lets go of the program. */
    suspend fun closeEngine() {
        val loaded = engine ?: return
        engine = null
        scale = null
        loaded.lock.withLock { loaded.close() }
    }

    private suspend fun make(sha256: String): Engine {
        val made = makeEngine(bundles.open(sha256))
        var kept: ByteArray? = null
        try {
            if (store.state.bundleSha256 != sha256) {
                store.update { it.copy(bundleSha256 = sha256, adapterSha256 = "", adapterVersion = 0) }
                store.keepOnly(Kind.BUNDLES, listOf(sha256))
            }
            kept = store.readAdapter()
            if (kept != null && kept.size != Float.SIZE_BYTES * made.core.adapter.count) {
                forgetAdapter()
                kept = null
            }
        } catch (error: Throwable) {
            made.close()
            throw error
        }
        if (kept != null) put(kept, made.core.adapter)
        return made
    }

    // --- adapter version ----------------------------------------------------------------------------------------------

    /** Brings the adapter to the version that [update] leads to, in memory and on disk. Raises BadVersion. */
    suspend fun reach(update: VersionUpdate) {
        val loaded = loaded()
        val state = store.state
        val reached =
            loaded.lock.withLock {
                Versions(loaded.core, loaded.bundle.layout, this).reach(update, heldVersion())
                bytesOf(loaded.core.adapter) // a prediction may have what was personalised there, once the lock is free
            }
        val sha256 = update.adapterSha256.toByteArray().toHex()
        if (state.adapterVersion != update.version || state.adapterSha256 != sha256) {
            store.writeAdapter(update.version, reached)
        }
    }

    /** The version that comes with a task's guides, if it does; [tell] is called once it is kept. */
    fun arriving(
        task: Task,
        tell: () -> Unit,
    ): ArrivingVersion? {
        if (task.update.formCase != VersionUpdate.FormCase.STREAMED) return null
        val loaded = loaded()
        val adapter = loaded.core.adapter
        val keep = { store.writeAdapter(task.update.version, bytesOf(adapter)) }
        return ArrivingVersion(task, heldVersion(), adapter, loaded.bundle.layout, keptGuides(), { keep() }, tell)
    }

    /** The version in the engine, or null when it is of no use as a start. */
    private fun heldVersion(): Long? = store.state.run { adapterVersion.takeIf { adapterSha256.isNotEmpty() } }

    /** Stops claiming a version, so that the next check-in is answered with a snapshot. */
    fun forgetAdapter() {
        store.update { it.copy(adapterSha256 = "", adapterVersion = 0) }
    }

    // --- scale and guides ---------------------------------------------------------------------------------------------

    /** A task's scale and guides, fetched where they are not here. */
    suspend fun supplies(
        taskId: String,
        task: DirectionsTask,
    ): Supplies {
        val scale = if (task.scaleSha256.isEmpty) null else scale(task.scaleSha256)
        return Supplies(scale, if (task.guidesCount > 0) guides(taskId, task.guidesList) else emptyMap())
    }

    override suspend fun scale(sha256: ByteString): FloatVector {
        scale?.let { (name, values) -> if (name == sha256) return values }
        val values = Versions.readScale(fetch(sha256, null), loaded().bundle.layout.parameters)
        scale = sha256 to values
        return values
    }

    override fun guide(sha256: ByteString): Slices? = keptGuides().guide(sha256)

    /**
     * All guides of a task, and the version that comes with them, on their way but for those that are here.
     *
     * What was kept for earlier tasks goes only now: the record that led to this version may have named it.
     */
    fun arrivals(
        taskId: String,
        guides: List<Guide>,
        version: Guide? = null,
        clockMs: () -> Double = { 0.0 },
    ): Arrivals {
        val announced = listOfNotNull(version) + guides
        val name = version?.sha256 ?: ByteString.EMPTY
        val kept = keptGuides()
        kept.keepOnly(announced)
        return Arrivals(announced, loaded().bundle.layout, kept, clockMs, name) { cloud.streamGuides(taskId, it, name) }
    }

    /** All guides of a task, decoded, once all are here. Raises BadArtifact. */
    private suspend fun guides(
        taskId: String,
        announced: List<Guide>,
    ): Map<ByteString, Slices> {
        arrivals(taskId, announced).receive()
        val kept = keptGuides()
        return announced.map { it.sha256 }.associateWith { name ->
            kept.guide(name) ?: throw BadArtifact("a guide was damaged on this device's disk: stream it again")
        }
    }

    /** The guides on disk. */
    fun keptGuides(): KeptGuides = KeptGuides(store, loaded().bundle.layout)

    // --- one artifact -------------------------------------------------------------------------------------------------

    override suspend fun fetch(
        sha256: ByteString,
        sizeBytes: Long,
    ): File = fetch(sha256, sizeBytes as Long?)

    /** A file with these bytes, of at most the adapter's size; fetched a second time when it arrived altered. */
    private suspend fun fetch(
        sha256: ByteString,
        sizeBytes: Long?,
    ): File {
        val name = sha256.toByteArray().toHex()
        if (name.length != HASH_DIGITS) throw ArtifactError("an artifact has no SHA-256 for a name: correct the task")
        val file = store.path(Kind.ARTIFACTS, name)
        if (store.read(Kind.ARTIFACTS, name) != null) return file
        val mostBytes = 8L * loaded().bundle.layout.parameters + MOST_SAFETENSORS_HEADER_BYTES
        // What stays beside an artifact that is about to come: its own part, and the scale in use.
        val inUse = scale?.first?.toByteArray()?.toHex()
        store.keepOnly(Kind.ARTIFACTS, listOfNotNull(name + Downloads.PART, inUse))
        try {
            cloud.fetch(name, sizeBytes, file, mostBytes)
        } catch (_: ArtifactError) {
            cloud.fetch(name, sizeBytes, file, mostBytes)
        }
        return file
    }

    private fun loaded(): Engine = checkNotNull(engine) { "a bundle that was loaded" }

    companion object {
        private const val MOST_SAFETENSORS_HEADER_BYTES = 1L shl 20
        private const val HASH_DIGITS = 64

        /** The little-endian float32 bytes of an adapter. */
        fun bytesOf(adapter: FloatVector): ByteArray {
            val values = FloatArray(adapter.count).also { adapter.read(0, it, it.size) }
            val bytes = ByteBuffer.allocate(Float.SIZE_BYTES * values.size).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asFloatBuffer().put(values)
            return bytes.array()
        }

        private fun put(
            bytes: ByteArray,
            adapter: FloatVector,
        ) {
            val values = FloatArray(adapter.count)
            ByteBuffer
                .wrap(bytes)
                .order(ByteOrder.LITTLE_ENDIAN)
                .asFloatBuffer()
                .get(values)
            adapter.write(0, values, values.size)
        }
    }
}
