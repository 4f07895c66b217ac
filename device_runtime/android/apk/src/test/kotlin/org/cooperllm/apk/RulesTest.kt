package org.cooperllm.apk

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.net.URLClassLoader
import java.util.jar.JarFile

/** What R8 kept for an app that has nothing but the rules in the AAR, and renames what it can. */
class RulesTest {
    private val target = fileOf("apk.target")
    private val embedded = File(target, "embedded.jar")

    @Test
    fun `the rules come out of the packed AAR`() {
        val source = File(target, "../../android/src/main/proguard.txt")
        assertArrayEquals(source.readBytes(), File(target, "aar/proguard.txt").readBytes())
    }

    @Test
    fun `R8 was free to rename the library's classes`() {
        val mapping = File(target, "embedded-mapping.txt").readLines()
        val library =
            mapping.mapNotNull { CLASS.find(it)?.destructured }.filter { (from) ->
                "cooperllm.runtime" in from
            }
        val renamed = library.count { (from, to) -> from != to }
        assertTrue("$renamed of ${library.size}", library.size > 50 && renamed > library.size * 9 / 10)
    }

    @Test
    fun `every class that was kept passes the JVM's verifier`() {
        // Resolving a class's methods links it; the loader's parent has the JDK alone and the twin's classes.
        val twin = Class.forName("org.pytorch.executorch.Module", false, javaClass.classLoader).protectionDomain
        val classPath = arrayOf(embedded.toURI().toURL(), twin.codeSource.location)
        val names =
            JarFile(embedded).use { jar ->
                val entries = jar.entries().asSequence().map { it.name }
                entries.filter { it.endsWith(".class") }.map { it.removeSuffix(".class").replace('/', '.') }.toList()
            }
        assertTrue("${names.size}", names.size > 500)
        val broken =
            URLClassLoader(classPath, ClassLoader.getPlatformClassLoader()).use { loader ->
                names.mapNotNull { problemOf(loader, it) }
            }
        assertEquals(emptyList<String>(), broken)
    }

    private fun problemOf(
        loader: ClassLoader,
        name: String,
    ): String? =
        try {
            Class.forName(name, false, loader).declaredMethods.size
            null
        } catch (error: LinkageError) {
            "$name: $error"
        }

    private companion object {
        val CLASS = Regex("""^(\S+) -> (\S+):$""")
    }
}
