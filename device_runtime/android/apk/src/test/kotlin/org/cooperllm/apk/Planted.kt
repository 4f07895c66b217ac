package org.cooperllm.apk

import android.os.PowerManager
import java.util.function.Supplier

/** Calls that a phone with minSdk has, lacks, or hides; never run. */
internal class PlantedCalls {
    fun thereAtMinSdk(power: PowerManager) = power.isInteractive

    fun newer(power: PowerManager) = power.currentThermalStatus

    fun hidden(): String = android.os.SystemProperties.get("ro.build.id")

    fun newerJava(text: String) = (text as java.lang.String).lines()
}

/** A lambda, which javac and kotlinc write as a call that is bound when it first runs. */
internal class PlantedLambda {
    fun late(text: String): Supplier<String> = Supplier { text + text.length }
}
