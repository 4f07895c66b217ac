package org.cooperllm.runtime.bundle

import java.io.File

/** The bundle of the toy program in tests/golden. */
internal object GoldenBundle {
    private val golden = File(System.getProperty("golden.dir"))

    /** Puts its four files into a folder, over what is there. Returns the folder. */
    fun copyTo(folder: File): File {
        File(golden, "bundle").listFiles().orEmpty().forEach { it.copyTo(File(folder, it.name), overwrite = true) }
        File(golden, "toy.pte").copyTo(File(folder, "program.pte"), overwrite = true)
        return folder
    }
}
