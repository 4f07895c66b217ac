package org.cooperllm.apk

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.RandomAccessFile
import java.util.zip.ZipEntry
import java.util.zip.ZipFile

/** The demo's APK as a file: signed, aligned, within its budget, and labelled as what it is. */
class PackageTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val apk = fileOf("apk")
    private val target = fileOf("apk.target")

    @Test
    fun `it is signed and aligned`() {
        verify(apk)
        outputOf("zipalign", "-c", "-p", "4", apk.path)
    }

    @Test
    fun `a changed byte breaks the signature, and a file out of line the alignment`() {
        val changed = apk.copyTo(temporary.newFile("changed.apk"), overwrite = true)
        RandomAccessFile(changed, "rw").use { file ->
            file.seek(file.length() / 3)
            val old = file.read()
            file.seek(file.length() / 3)
            file.write(old xor 1)
        }
        assertThrows(IllegalStateException::class.java) { verify(changed) }
        assertThrows(IllegalStateException::class.java) { verify(File(target, "aligned.apk")) }
        val crooked = temporary.newFile("crooked.apk")
        java.util.zip.ZipOutputStream(crooked.outputStream()).use { zip ->
            zip.setLevel(0)
            val entry =
                ZipEntry("odd").apply {
                    method = ZipEntry.STORED
                    size = 1
                    crc = 0xD202EF8D
                }
            zip.putNextEntry(entry)
            zip.write(0)
        }
        assertThrows(IllegalStateException::class.java) { outputOf("zipalign", "-c", "-p", "4", crooked.path) }
    }

    @Test
    fun `dex and package are within their budgets`() {
        val sizes = mapOf("dex" to File(target, "dex/classes.dex").length(), "apk" to apk.length())
        assertEquals(emptyList<String>(), overBudget(sizes))
        assertEquals(listOf("dex", "apk"), overBudget(sizes.mapValues { 1L shl 31 }).map { it.substringBefore(':') })
        assertEquals("one dex", listOf("classes.dex"), entries().filter { it.endsWith(".dex") })
    }

    @Test
    fun `it says that it lacks the native libraries, and it does`() {
        assertEquals(emptyList<String>(), entries().filter { it.endsWith(".so") || it.startsWith("lib/") })
        assertTrue("without-native-libraries" in apk.name)
        val note =
            ZipFile(apk).use { zip ->
                zip.getInputStream(zip.getEntry("assets/READ_ME.txt")).reader().readText()
            }
        assertTrue(note, "lacks the native libraries" in note)
        assertEquals(
            "of the desktop twin",
            emptySet<String>(),
            dexClasses().filter { it.startsWith("org/pytorch/") }.toSet(),
        )
    }

    @Test
    fun `the resource table is stored, as Android 11 wants it`() {
        ZipFile(apk).use { assertEquals(ZipEntry.STORED, it.getEntry("resources.arsc").method) }
    }

    @Test
    fun `the system reads the same SDK levels, application and parts from it as from the sources`() {
        val badging = outputOf(System.getProperty("aapt2"), "dump", "badging", apk.path)
        assertTrue(badging, "package: name='org.cooperllm.demo'" in badging)
        assertTrue(badging, "minSdkVersion:'${System.getProperty("min.sdk")}'" in badging)
        assertTrue(badging, "targetSdkVersion:'${System.getProperty("target.sdk")}'" in badging)
        assertTrue(badging, "launchable-activity: name='org.cooperllm.demo.MainActivity'" in badging)
        assertFalse(badging, "application-debuggable" in badging)
    }

    @Test
    fun `every class that the manifest names is in the dex`() {
        val tree = outputOf(System.getProperty("aapt2"), "dump", "xmltree", apk.path, "--file", "AndroidManifest.xml")
        val named = NAMED.findAll(tree).map { it.groupValues[1].replace('.', '/') }.toSet()
        assertTrue("$named", "org/cooperllm/android/TrainingJobService" in named)
        assertEquals(emptySet<String>(), named - dexClasses())
    }

    private fun dexClasses() = classesIn(File(target, "dex/classes.dex"))

    private fun entries() =
        ZipFile(apk).use { zip ->
            zip
                .entries()
                .asSequence()
                .map(ZipEntry::getName)
                .toList()
        }

    private fun verify(file: File) =
        outputOf("apksigner", "verify", "--min-sdk-version", System.getProperty("min.sdk"), file.path)

    private fun overBudget(sizes: Map<String, Long>) =
        sizes
            .filter { (name, size) -> size > System.getProperty("$name.budget.bytes").toLong() }
            .map { (name, size) -> "$name: $size bytes" }

    private companion object {
        val NAMED = Regex("""android:name\(\S+\)="(org\.cooperllm\.[\w.]+)"""")
    }
}
