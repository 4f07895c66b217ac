package org.cooperllm.apk

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** The dex of the demo: what it calls is there on a phone with the lowest Android that it claims. */
class DexTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val dex = File(fileOf("apk.target"), "dex/classes.dex")
    private val signature = fileOf("min.sdk.signature")

    @Test
    fun `no call is bound only when it runs`() {
        assertEquals(emptyList<String>(), lateBoundCalls(dex))
    }

    @Test
    fun `a planted call that is bound late is found`() {
        val found = lateBoundCalls(planted(temporary.root, listOf(PlantedLambda::class.java), "--no-desugaring"))
        assertTrue("$found", found.isNotEmpty())
        // The build's own desugaring is what takes it out.
        val desugared = planted(temporary.newFolder(), listOf(PlantedLambda::class.java))
        assertEquals(emptyList<String>(), lateBoundCalls(desugared))
    }

    @Test
    fun `every reference to android and java exists at minSdk, but for those named here with a reason`() {
        val missing = missingIn(dex, signature, temporary.root)
        assertEquals(emptyList<Missing>(), missing.filterNot { one -> EXCEPTIONS.any { it.covers(one) } })
        val unused = EXCEPTIONS.filterNot { exception -> missing.any(exception::covers) }
        assertEquals("exceptions that nothing needs any more", emptyList<Exception>(), unused)
    }

    @Test
    fun `planted calls above minSdk and outside the public API are found`() {
        val dex = planted(temporary.root, listOf(PlantedCalls::class.java))
        val found = missingIn(dex, signature, temporary.root)
        assertEquals(setOf(PlantedCalls::class.java.name), found.mapTo(mutableSetOf()) { it.user })
        for (name in listOf("PowerManager.getCurrentThermalStatus", "SystemProperties.get", "String.lines")) {
            assertTrue("$name is not among $found", found.any { name in it.reference })
        }
        assertTrue("$found", found.none { "isInteractive" in it.reference })
    }
}
