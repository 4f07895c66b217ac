package org.cooperllm.apk

import org.codehaus.mojo.animal_sniffer.ClassListBuilder
import org.codehaus.mojo.animal_sniffer.SignatureChecker
import org.codehaus.mojo.animal_sniffer.logging.Logger
import java.io.File

/** [user], a class, names [reference], which is not there. */
internal data class Missing(
    val user: String,
    val reference: String,
) {
    override fun toString() = "$user: $reference"
}

/** What [dex] names of android.* and java.* that [signature], an Android's public API, does not have. */
internal fun missingIn(
    dex: File,
    signature: File,
    folder: File,
): Set<Missing> {
    val classes = File(folder, "classes-of-dex.jar")
    val tool = arrayOf(System.getProperty("system.python"), "-O", System.getProperty("enjarify"))
    outputOf(*tool, "-f", "-o", classes.path, dex.path)
    val said = Said()
    val own = ClassListBuilder(said).apply { process(classes) }.packages
    signature.inputStream().use { SignatureChecker(it, own + BROUGHT_BY_AARS, said).process(classes) }
    return said.found.mapTo(mutableSetOf()) { line ->
        val (where, what) = checkNotNull(LINE.find(line)) { "animal-sniffer says: $line" }.destructured
        Missing(where.replace('/', '.'), what)
    }
}

private const val BROUGHT_BY_AARS = "org.pytorch.executorch.*"

/** `jar:path/of/Class.class:`, perhaps a line or a member, `Undefined reference: what`. */
private val LINE = Regex("""([\w/$-]+)\.class:.*Undefined reference[^:]*: (.+)$""")

/** Collects what the checker finds. */
private class Said : Logger {
    val found = mutableListOf<String>()

    override fun error(message: String) {
        found += message
    }

    override fun error(
        message: String,
        cause: Throwable?,
    ) = error(message)

    override fun warn(message: String) = Unit

    override fun warn(
        message: String,
        cause: Throwable?,
    ) = Unit

    override fun info(message: String) = Unit

    override fun info(
        message: String,
        cause: Throwable?,
    ) = Unit

    override fun debug(message: String) = Unit

    override fun debug(
        message: String,
        cause: Throwable?,
    ) = Unit
}
