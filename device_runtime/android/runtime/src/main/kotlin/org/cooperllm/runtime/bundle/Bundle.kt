package org.cooperllm.runtime.bundle

import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.LayoutMismatch
import org.cooperllm.runtime.bundle.JsonFields.Companion.AGAIN
import org.cooperllm.runtime.zo.FloatVector
import org.cooperllm.runtime.zo.Grid
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.toHex
import java.io.File
import java.io.FileInputStream
import java.io.IOException
import java.security.MessageDigest

/**
 * A bundle that passed every check: [folder], its name [sha256] (that of manifest.json, hex), what it says, and its
 * initial [adapter] of n values.
 */
internal class Bundle private constructor(
    val folder: File,
    val sha256: String,
    val manifest: Manifest,
    val adapter: FloatVector,
) {
    val layout: Layout get() = manifest.layout

    /** The file of a part. */
    fun file(part: BundlePart): File = File(folder, manifest.files.getValue(part).name)

    companion object {
        const val MANIFEST_NAME: String = "manifest.json"

        /** A manifest is some kilobytes; what is larger is not read into memory. */
        const val MOST_MANIFEST_BYTES: Long = 16L shl 20
        private const val CHUNK_BYTES = 1 shl 16

        /**
         * Opens the bundle in a folder and checks all of it: sizes, then hashes, then the layout, then every value.
         *
         * [sha256] is the name that the bundle must have, where the caller knows it.
         *
         * Raises BundleError when a file is missing, truncated or altered (fetch it again), BundleVersionError for a
         * format that this release does not read (update the app), LayoutMismatch when the layout is not the one that
         * the manifest hashes, or the adapter is not of it.
         */
        fun open(
            folder: File,
            sha256: String? = null,
        ): Bundle {
            val bytes = readManifest(folder)
            val actual = MessageDigest.getInstance("SHA-256").digest(bytes).toHex()
            if (sha256 != null && actual != sha256) {
                throw BundleError("$folder: the manifest's SHA-256 is $actual, not $sha256; $AGAIN")
            }
            val manifest = ManifestReader("$folder: $MANIFEST_NAME").read(bytes)
            for (entry in manifest.files.values) checkFile(File(folder, entry.name), entry)
            val name = manifest.files.getValue(BundlePart.ADAPTER).name
            return Bundle(folder, actual, manifest, readAdapter(File(folder, name), manifest.layout))
        }

        /**
         * An adapter.safetensors as one vector in the order of a layout.
         *
         * Raises BundleError when it is no safetensors file, LayoutMismatch for other names, shapes or types than the
         * layout's, or values that are not finite, not on the grid, out of bound or -0.0.
         */
        fun readAdapter(
            file: File,
            layout: Layout,
        ): FloatVector {
            val source = Safetensors.open(file)
            // Names are unique in a file, and there they are all: so are the layout's.
            val isOfLayout =
                source.tensors.size == layout.tensors.size &&
                    layout.tensors.all { source.tensors[it.name]?.isFloat32(it.shape) == true }
            if (!isOfLayout) throw LayoutMismatch("$file: its tensors are not those of the layout; $AGAIN")
            val adapter = FloatVector.allocate(layout.parameters)
            for (tensor in layout.tensors) source.read(tensor.name, adapter, tensor.offset)
            Grid.checkAdapter(adapter, layout)
            return adapter
        }

        /** SHA-256 (hex) of a file, read in pieces. Raises IOException. */
        fun fileSha256(file: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            val chunk = ByteArray(CHUNK_BYTES)
            FileInputStream(file).use { input ->
                while (true) {
                    val size = input.read(chunk)
                    if (size < 0) break
                    digest.update(chunk, 0, size)
                }
            }
            return digest.digest().toHex()
        }

        private fun readManifest(folder: File): ByteArray {
            val file = File(folder, MANIFEST_NAME)
            try {
                // No special file, which could be without end.
                if (!file.isFile) throw BundleError("$folder: no bundle there (no $MANIFEST_NAME); $AGAIN")
                if (file.length() > MOST_MANIFEST_BYTES) throw BundleError("$file: too large for a manifest; $AGAIN")
                return file.readBytes()
            } catch (error: IOException) {
                throw BundleError("$file: ${error.message}; $AGAIN", error)
            }
        }

        private fun checkFile(
            file: File,
            entry: FileEntry,
        ) {
            if (!file.isFile) throw BundleError("$file: is missing; $AGAIN")
            if (file.length() != entry.sizeBytes) {
                throw BundleError("$file: ${file.length()} bytes, the manifest says ${entry.sizeBytes}; $AGAIN")
            }
            try {
                if (fileSha256(file) != entry.sha256) {
                    throw BundleError("$file: its bytes were altered, the SHA-256 is not the manifest's; $AGAIN")
                }
            } catch (error: IOException) {
                throw BundleError("$file: ${error.message}; $AGAIN", error)
            }
        }
    }
}
