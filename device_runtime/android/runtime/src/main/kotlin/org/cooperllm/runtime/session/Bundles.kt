package org.cooperllm.runtime.session

import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.bundle.ManifestReader
import org.cooperllm.runtime.store.Durable
import org.cooperllm.runtime.store.Kind
import org.cooperllm.runtime.store.Store
import java.io.File

/** How a bundle comes into the store: file by file, by the hashes in its manifest. */
internal class Bundles(
    private val store: Store,
    private val cloud: Cloud,
) {
    /**
     * The bundle of this hash, fetched first where it is missing or damaged.
     *
     * Raises BundleError when what the cloud serves under this hash is no bundle for this release.
     */
    suspend fun open(sha256: String): Bundle {
        val folder = store.path(Kind.BUNDLES, sha256)
        try {
            return Bundle.open(folder, sha256)
        } catch (_: BundleError) {
            // not here, not complete, or damaged since
            fetch(folder, sha256)
        }
        try {
            return Bundle.open(folder, sha256)
        } catch (error: BundleError) {
            Durable.delete(folder)
            throw error
        }
    }

    /** Fetches the files that are missing or altered; finished ones and parts of others stay. */
    private suspend fun fetch(
        folder: File,
        sha256: String,
    ) {
        folder.mkdirs()
        val manifestFile = File(folder, Bundle.MANIFEST_NAME)
        if (!isThere(manifestFile, sha256)) cloud.fetch(sha256, null, manifestFile, Bundle.MOST_MANIFEST_BYTES)
        val manifest = ManifestReader("the service's bundle").read(manifestFile.readBytes())
        for (entry in manifest.files.values) {
            val target = File(folder, entry.name)
            if (!isThere(target, entry.sha256)) {
                cloud.fetch(entry.sha256, entry.sizeBytes, target, MOST_FILE_BYTES)
            }
        }
    }

    private fun isThere(
        file: File,
        sha256: String,
    ) = file.isFile && Bundle.fileSha256(file) == sha256

    private companion object {
        const val MOST_FILE_BYTES = 4L shl 30
    }
}
