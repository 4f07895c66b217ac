package org.cooperllm.runtime.store

import org.cooperllm.runtime.StoreFull
import java.io.File

/** A process that may only write small files: a program for StoreProcessTest. */
internal fun main(arguments: Array<String>) {
    Store(File(arguments[0])).use { store ->
        store.writeAdapter(1, byteArrayOf(1))
        val writes =
            listOf(
                { store.writeAdapter(2, ByteArray(5000)) },
                { store.update { it.copy(pendingReport = "00".repeat(3000)) } },
            )
        for (write in writes) {
            try {
                write()
            } catch (error: StoreFull) {
                println(error.message)
            }
        }
        check(store.state.adapterVersion == 1L && store.readAdapter().contentEquals(byteArrayOf(1)))
        store.writeAdapter(3, byteArrayOf(3))
    }
}
