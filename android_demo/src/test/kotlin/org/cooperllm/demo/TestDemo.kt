package org.cooperllm.demo

import android.content.Context
import android.content.Intent
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import android.os.BatteryManager
import android.os.Looper
import android.os.PowerManager
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.cooperllm.android.TrainingEnd
import org.cooperllm.runtime.session.DeviceKeys
import org.cooperllm.runtime.session.ServiceAddress
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowNetworkCapabilities
import java.time.Duration
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** The app, pointed at a service of the test's. */
internal class TestDemo : DemoApp() {
    override val address: ServiceAddress get() = ServiceAddress(server, tls = false, name = "demo")

    /** Robolectric has no keystore. */
    override val keys: DeviceKeys? get() = null

    private val ends = LinkedBlockingQueue<TrainingEnd>()

    override fun onTrainingEnd(end: TrainingEnd) = ends.put(end)

    /** Why the next job ends. */
    fun awaitEnd(): TrainingEnd = checkNotNull(ends.poll(LONGEST_MS, TimeUnit.MILLISECONDS)) { "no job has ended" }

    companion object {
        /** HOST:PORT; nobody listens on port 1. */
        @Volatile
        var server = "127.0.0.1:1"
    }
}

private const val LONGEST_MS = 180_000L

/** The first value of a flow that is as wanted. */
internal fun <T> Flow<T>.wait(isWanted: (T) -> Boolean): T = runBlocking { withTimeout(LONGEST_MS) { first(isWanted) } }

/** Looks again and again at what tells nobody when it changes. */
internal fun until(isSo: () -> Boolean) {
    val endNs = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(LONGEST_MS)
    while (!isSo()) {
        check(System.nanoTime() < endNs) { "it did not come to that" }
        Thread.yield()
    }
}

/** Lets the screen show what was told to it. */
internal fun settle() = shadowOf(Looper.getMainLooper()).idleFor(Duration.ofMillis(FRAMES_MS))

private const val FRAMES_MS = 200L

/** A phone on which nothing stands against practising with the app open. */
@Suppress("DEPRECATION") // As the system does it.
internal fun Context.allowPractising() {
    sendStickyBroadcast(
        Intent(Intent.ACTION_BATTERY_CHANGED)
            .putExtra(BatteryManager.EXTRA_LEVEL, 80)
            .putExtra(BatteryManager.EXTRA_SCALE, 100)
            .putExtra(BatteryManager.EXTRA_STATUS, BatteryManager.BATTERY_STATUS_DISCHARGING),
    )
    shadowOf(getSystemService(PowerManager::class.java)).setCurrentThermalStatus(PowerManager.THERMAL_STATUS_NONE)
    val found = ShadowNetworkCapabilities.newInstance()
    shadowOf(found).addCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
    val networks = checkNotNull(getSystemService(ConnectivityManager::class.java))
    shadowOf(networks).setNetworkCapabilities(networks.activeNetwork, found)
    // The phone is asked once a second.
    shadowOf(Looper.getMainLooper()).idleFor(Duration.ofSeconds(1))
}

/** As when nobody uses the phone. */
internal fun Context.holdScreenOff() = shadowOf(getSystemService(PowerManager::class.java)).turnScreenOn(false)
