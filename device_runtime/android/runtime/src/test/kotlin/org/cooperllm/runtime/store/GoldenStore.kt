package org.cooperllm.runtime.store

import org.cooperllm.runtime.Disclosure
import java.io.File

/** The stores in tests/golden/store: what tests.golden.make_store does in Python, done in Kotlin. */
internal object GoldenStore {
    val KEY: ByteArray = "a key in PEM\n".toByteArray()
    val ADAPTER: ByteArray = ByteArray(40) { it.toByte() }
    val GUIDE: ByteArray = ByteArray(16) { (100 + it).toByte() }
    val PERSONAL: ByteArray = "{\"steps\": 3}\n".toByteArray() + ByteArray(8) { (200 + it).toByte() }
    val GUIDE_NAME: String = "ef".repeat(32)
    const val TASK = "task-é"
    val SCALARS = listOf(0.125, -2.5, 1e-300, 3.4e38, 1e-5, 12345678.0, 0.1f.toDouble())

    private val golden = File(System.getProperty("golden.dir"), "store")

    /** Of "python" or "kotlin". */
    fun folder(author: String) = File(golden, author)

    fun write(folder: File): State =
        Store(folder) { 0 }.use { store ->
            store.writeKey(KEY)
            store.writeAdapter(7, ADAPTER)
            val guide = store.write(Kind.GUIDES, GUIDE)
            store.writePersonal(PERSONAL)
            store.progress.add(TASK, SCALARS.take(2))
            store.progress.add(TASK, SCALARS.drop(2))
            store.update {
                it.copy(
                    bundleSha256 = "ab".repeat(32),
                    pendingReport = "00ff",
                    pendingRound = 3,
                    disclosed = mapOf("2" to listOf(4, 0), "3" to listOf(8, 1)),
                    evaluated = mapOf("3" to "cd".repeat(32)),
                    guides = mapOf(GUIDE_NAME to mapOf(0 to KeptPiece(1, guide), 2 to KeptPiece(2, guide))),
                    disclosures = listOf(Disclosure(1.5e12, 3, "directions", 8, 1, 120)),
                )
            }
        }
}

/** Writes tests/golden/store/kotlin again. */
internal fun main() {
    val folder = GoldenStore.folder("kotlin")
    folder.deleteRecursively()
    GoldenStore.write(folder)
    File(folder, "lock").delete()
    folder
        .listFiles()
        .orEmpty()
        .filter { it.isDirectory && it.list().isNullOrEmpty() }
        .forEach(File::delete)
}
