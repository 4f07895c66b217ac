package org.cooperllm.runtime.store

import org.cooperllm.runtime.StoreError
import org.cooperllm.runtime.StoreFull
import org.cooperllm.runtime.StoreInUse
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.nio.file.attribute.PosixFilePermissions
import java.util.Random
import kotlin.experimental.xor

/** The store under damage, cuts, a second user and a full disk, and beside the Python device's. */
class StoreTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private lateinit var folder: File

    @Before
    fun makeFolder() {
        folder = temporary.newFolder()
    }

    @Test
    fun `a store that Python wrote opens, and goes on`() {
        GoldenStore.folder("python").copyRecursively(folder, overwrite = true)
        val expected = GoldenStore.write(temporary.newFolder())
        Store(folder).use { store ->
            checkGolden(store, expected)
            store.progress.add(GoldenStore.TASK, listOf(9.0))
            store.update { it.copy(pendingReport = "") }
        }
        Store(folder).use { store ->
            assertEquals(GoldenStore.SCALARS + 9.0, store.progress.of(GoldenStore.TASK))
            assertEquals(expected.copy(pendingReport = "", writes = expected.writes + 1), store.state)
        }
    }

    /** Python reads these files in tests/device_runtime/test_golden_store.py. */
    @Test
    fun `the store in tests golden is what this release writes`() {
        GoldenStore.write(folder)
        val golden = GoldenStore.folder("kotlin")
        val names = files(golden).map { it.relativeTo(golden).path }
        assertEquals(names, files(folder).map { it.relativeTo(folder).path } - "lock")
        for (name in names) assertArrayEquals(name, File(golden, name).readBytes(), File(folder, name).readBytes())
    }

    @Test
    fun `what was written is there after reopening, for its owner alone`() {
        val state = GoldenStore.write(folder)
        Store(folder).use { checkGolden(it, state) }
        for (file in files(folder)) {
            assertEquals("rw-------", PosixFilePermissions.toString(Files.getPosixFilePermissions(file.toPath())))
        }
    }

    @Test
    fun `every file cut at any byte gives whole things or none`() {
        val state = GoldenStore.write(folder)
        val random = Random(4)
        for (file in files(folder).filter { it.name != "lock" }) {
            val content = file.readBytes()
            for (size in listOf(0, 1, content.size - 1) + List(10) { random.nextInt(content.size) }) {
                file.writeBytes(content.copyOf(size))
                Store(folder).use { store ->
                    assertEquals(state, store.state)
                    assertArrayEquals(GoldenStore.KEY, store.readKey())
                    val kept = store.progress.of(GoldenStore.TASK)
                    assertEquals(GoldenStore.SCALARS.take(kept.size), kept)
                    store.readAdapter()?.let { assertArrayEquals(GoldenStore.ADAPTER, it) }
                    store.readPersonal()?.let { assertArrayEquals(GoldenStore.PERSONAL, it) }
                    for (piece in state.guides.getValue(GoldenStore.GUIDE_NAME).values) {
                        store.read(Kind.GUIDES, piece.sha256)?.let { assertArrayEquals(GoldenStore.GUIDE, it) }
                    }
                }
                file.writeBytes(content)
            }
        }
    }

    @Test
    fun `progress cut or altered anywhere gives the whole lines before`() {
        val file = File(folder, "progress")
        val lines = listOf(listOf(0.1), listOf(-2.5, 3e-300), listOf(7.0))
        val ends = mutableListOf<Long>()
        val progress = Progress(file) { 0 }
        for (line in lines) {
            progress.add("task", line)
            ends += file.length()
        }
        val content = file.readBytes()
        for (size in content.indices) {
            val whole = lines.take(ends.count { it <= size }).flatten()
            file.writeBytes(content.copyOf(size))
            assertEquals(whole, Progress(file).of("task"))
            file.writeBytes(content.copyOf().also { it[size] = it[size] xor 1 })
            val again = Progress(file) { 0 }
            assertEquals(whole, again.of("task"))
            again.add("task", listOf(9.0))
            assertEquals(whole + 9.0, again.of("task"))
            assertEquals(whole + 9.0, Progress(file).of("task"))
        }
        assertEquals(emptyList<Double>(), Progress(file).of("other"))
    }

    @Test
    fun `damage to one of two copies loses nothing, to both reads as absent`() {
        val state = GoldenStore.write(folder)
        for (name in listOf("state", "key")) {
            val whole = File(folder, name).readBytes()
            for (at in whole.indices step 9) {
                val file = File(folder, if (at % 2 == 0) name else "$name.copy")
                file.writeBytes(whole.copyOf().also { it[at] = it[at] xor 1 })
                Store(folder).use { store ->
                    assertEquals(state, store.state)
                    assertArrayEquals(GoldenStore.KEY, store.readKey())
                }
                assertFalse(file.exists())
                file.writeBytes(whole)
            }
        }
        for (name in listOf("state", "state.copy", "key", "key.copy")) File(folder, name).appendText("x")
        Store(folder).use { store ->
            assertEquals(State(), store.state)
            assertNull(store.readKey())
        }
    }

    @Test
    fun `between the two writes the newer copy counts`() {
        Store(folder).use { it.update { state -> state.copy(disclosed = mapOf("1" to listOf(4, 0))) } }
        val older = File(folder, "state").readBytes()
        Store(folder).use { it.update { state -> state.copy(disclosed = mapOf("1" to listOf(8, 0))) } }
        for (name in listOf("state.copy", "state")) {
            val newer = File(folder, name).readBytes()
            File(folder, name).writeBytes(older)
            Store(folder).use { assertEquals(mapOf("1" to listOf(8, 0)), it.state.disclosed) }
            File(folder, name).writeBytes(newer)
        }
    }

    @Test
    fun `a state of a newer release is read as far as it is known, or refused`() {
        Durable.writeSealedPair(
            File(folder, "state"),
            "{\"adapter_version\": 8, \"invented_later\": [1]}".toByteArray(),
        )
        Store(folder).use { assertEquals(State(adapterVersion = 8), it.state) }
        Durable.writeSealedPair(File(folder, "state"), "{\"adapter_version\": [8]}".toByteArray())
        repeat(2) { assertThrows(StoreError::class.java) { Store(folder) } } // and the folder is not left locked
    }

    @Test
    fun `a second user is refused and may come later`() {
        Store(folder).use { assertThrows(StoreInUse::class.java) { Store(folder) } }
        Store(folder).close()
    }

    @Test
    fun `only the newest adapter is kept, and a damaged one is removed`() {
        Store(folder).use { store ->
            store.writeAdapter(1, byteArrayOf(1))
            val second = store.writeAdapter(2, byteArrayOf(2))
            assertEquals(listOf(second), File(folder, "adapters").list().orEmpty().toList())
            store.path(Kind.ADAPTERS, second).writeBytes(byteArrayOf(3))
            assertNull(store.readAdapter())
            assertFalse(store.path(Kind.ADAPTERS, second).exists())
        }
    }

    @Test
    fun `forget leaves nothing`() {
        GoldenStore.write(folder)
        Store(folder).use { store ->
            val bundle = store.path(Kind.BUNDLES, "0".repeat(64))
            assertTrue(bundle.mkdirs())
            File(bundle, "program.pte").writeText("x")
            store.forget()
            assertEquals(State(), store.state)
            assertEquals(emptyList<Double>(), store.progress.of(GoldenStore.TASK))
        }
        assertEquals(listOf(File(folder, "lock")), files(folder))
    }

    @Test
    fun `names that are no hash never become paths`() {
        Store(folder).use { store ->
            for (name in listOf("", "../key", "0".repeat(63), "0".repeat(63) + "G", "A".repeat(64))) {
                assertThrows(IllegalArgumentException::class.java) { store.path(Kind.ADAPTERS, name) }
            }
        }
    }

    @Test
    fun `a failed write is one clear error and leaves the old file`() {
        val file = File(folder, "file")
        Durable.write(file, byteArrayOf(1))
        File(folder, "file.tmp").mkdir() // the temporary file cannot be opened
        File(folder, "file.tmp/x").mkdir()
        val error = assertThrows(StoreError::class.java) { Durable.write(file, byteArrayOf(2)) }
        assertTrue("$error", error.message.orEmpty().contains("cannot write"))
        assertArrayEquals(byteArrayOf(1), file.readBytes())
        assertThrows(StoreError::class.java) { Store(file) }
        val full = Durable.storeError(IOException("No space left on device"), file, "write")
        assertEquals(StoreFull::class, full::class)
    }

    private fun checkGolden(
        store: Store,
        state: State,
    ) {
        assertEquals(state, store.state)
        assertArrayEquals(GoldenStore.KEY, store.readKey())
        assertArrayEquals(GoldenStore.ADAPTER, store.readAdapter())
        assertArrayEquals(GoldenStore.PERSONAL, store.readPersonal())
        val pieces = state.guides.getValue(GoldenStore.GUIDE_NAME)
        assertEquals(mapOf(0 to 1, 2 to 2), pieces.mapValues { it.value.encoding })
        for (piece in pieces.values) assertArrayEquals(GoldenStore.GUIDE, store.read(Kind.GUIDES, piece.sha256))
        assertEquals(GoldenStore.SCALARS, store.progress.of(GoldenStore.TASK))
    }

    private fun files(folder: File): List<File> =
        folder
            .walk()
            .filter { it.isFile }
            .sorted()
            .toList()
}
