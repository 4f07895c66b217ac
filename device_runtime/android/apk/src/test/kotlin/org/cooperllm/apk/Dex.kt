package org.cooperllm.apk

import com.android.tools.r8.D8
import com.android.tools.r8.D8Command
import com.android.tools.r8.origin.Origin
import java.io.File

/** A tool's output; an error when it fails. */
internal fun outputOf(vararg command: String): String {
    val process = ProcessBuilder(*command).redirectErrorStream(true).start()
    val output = process.inputStream.bufferedReader().readText()
    check(process.waitFor() == 0) { "${command.joinToString(" ")} failed:\n$output" }
    return output
}

/** A property that the POM gives, as a file. */
internal fun fileOf(property: String): File = File(System.getProperty(property))

/** The calls that are bound only when they run: a phone's Android may not know what binds them. */
internal fun lateBoundCalls(dex: File): List<String> =
    outputOf(
        "dexdump",
        "-d",
        dex.path,
    ).lineSequence().filter { LATE_BOUND in it }.map { it.substringAfter("|") }.toList()

/** The descriptors of the classes in it. */
internal fun classesIn(dex: File): Set<String> =
    outputOf("dexdump", dex.path)
        .lineSequence()
        .mapNotNull { DESCRIPTOR.find(it)?.groupValues?.get(1) }
        .toSet()

/** A dex of [classes] of these tests, for what a check must find. */
internal fun planted(
    folder: File,
    classes: List<Class<*>>,
    vararg options: String,
): File {
    val files = classes.map { File(it.protectionDomain.codeSource.location.path, "${it.name.replace('.', '/')}.class") }
    val libraries = listOf("--lib", System.getProperty("java.home"), "--lib", System.getProperty("android.jar"))
    val common = listOf("--min-api", System.getProperty("min.sdk"), "--output", folder.path) + libraries
    val command =
        D8Command.parse(
            (options.toList() + common + files.map(File::getPath)).toTypedArray(),
            Origin.unknown(),
        )
    D8.run(command.build())
    return File(folder, "classes.dex")
}

private val LATE_BOUND = Regex("invoke-(custom|polymorphic)")
private val DESCRIPTOR = Regex("Class descriptor {2}: 'L(.+);'")
